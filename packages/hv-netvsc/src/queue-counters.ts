/** Running totals of one channel. Those in FreeBSD's spelling are its `dev.hn.N` counters, which sum all channels. */
export interface NetvscQueueCounters {
  /** Frames taken for transmission, and their bytes (`tx.R.packets`). */
  txPackets: number;
  txBytes: number;
  /** Messages put into the ring for them (`tx.R.sends`). */
  sends: number;
  /** Times that transmission had to wait for a descriptor (`tx.R.oactive`). */
  oactive: number;
  /** Frames for which no descriptor was free. */
  no_txdescs: number;
  /** Sends that the host answered with a failure. */
  send_failed: number;
  /** Frames in more pieces than one message takes. */
  txdma_failed: number;
  /** Sends that had to wait for room in the ring. */
  agg_flush_failed: number;
  /** Frames that were copied because they were in too many pieces. */
  tx_collapsed: number;
  /** Frames small enough to be copied into the send buffer, and those that found a section. */
  tx_chimney_tried: number;
  tx_chimney: number;
  /** Frames that cannot be sent with what was agreed: too long, or an offload that is off. */
  txRefused: number;
  /** UDP checksums computed here because the host would get them wrong (`hw.hn.udpcs_fixup`). */
  udpcs_fixup: number;
  /** Frames delivered, and their bytes (`rx.R.packets`). */
  rxPackets: number;
  rxBytes: number;
  /** Frames of at most 168 bytes. */
  small_pkts: number;
  /** Frames with a hash value (`rx.R.rss_pkts`). */
  rss_pkts: number;
  /** Coalesced frames, and those of which a part was missing (`rx.R.rsc_pkts`, `rx.R.rsc_drop`). */
  rsc_pkts: number;
  rsc_drop: number;
  /** Frames whose checksums the host vouched for. */
  csum_ip: number;
  csum_tcp: number;
  csum_udp: number;
  /** Frames of whose checksums the host said nothing, and that were trusted. */
  csum_trusted: number;
  /** Receive completions that had to wait for room in the ring. */
  rx_ack_failed: number;
  /** Frames that nobody wanted yet. */
  rxDropped: number;
  /** Packets, ranges and messages of the host that break the protocol. */
  malformed: number;
  /** Completions with an id that nothing waits for: late, double, or invented. */
  unknownIds: number;
}

/** The sum of both, counter by counter. */
export function addCounters(
  left: NetvscQueueCounters,
  right: NetvscQueueCounters,
): NetvscQueueCounters {
  const sum = { ...left };
  for (const name of Object.keys(sum) as (keyof NetvscQueueCounters)[]) sum[name] += right[name];
  return sum;
}

/** Nothing has happened yet. */
export function newQueueCounters(): NetvscQueueCounters {
  return {
    txPackets: 0,
    txBytes: 0,
    sends: 0,
    oactive: 0,
    no_txdescs: 0,
    send_failed: 0,
    txdma_failed: 0,
    agg_flush_failed: 0,
    tx_collapsed: 0,
    tx_chimney_tried: 0,
    tx_chimney: 0,
    txRefused: 0,
    udpcs_fixup: 0,
    rxPackets: 0,
    rxBytes: 0,
    small_pkts: 0,
    rss_pkts: 0,
    rsc_pkts: 0,
    rsc_drop: 0,
    csum_ip: 0,
    csum_tcp: 0,
    csum_udp: 0,
    csum_trusted: 0,
    rx_ack_failed: 0,
    rxDropped: 0,
    malformed: 0,
    unknownIds: 0,
  };
}
