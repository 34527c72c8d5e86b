import { BootError } from "../boot-error.js";

/** A setting that the guest boots with, as FreeBSD's loader has them. A whole number. */
export interface Tunable {
  readonly name: string;
  readonly description: string;
  /** Unless set. */
  readonly value: number;
  readonly least: number;
  readonly most: number;
  /** `sysctl` may set it while the system runs. */
  readonly isWritable?: boolean;
}

const PAGE_BYTES = 4096;

/** Every tunable of this kernel; names of FreeBSD where it has them. */
export const tunables = {
  signalOptimization: {
    name: "hw.vmbus.signal_optimization",
    description: "Ask for interrupts, and signal the host, once per batch",
    value: 1,
    least: 0,
    most: 1,
  },
  ringBytes: {
    name: "hw.storvsc.ringbuffer_size",
    description: "Hyper-V storage ringbuffer size",
    value: 64 * PAGE_BYTES,
    least: 2 * PAGE_BYTES,
    most: 1024 * PAGE_BYTES,
  },
  maxIo: {
    name: "hw.storvsc.max_io",
    description: "Hyper-V storage max io limit",
    value: 512,
    least: 32,
    most: 4096,
  },
  channelCount: {
    name: "hw.storvsc.chan_cnt",
    description: "# of channels to use",
    value: 0,
    least: 0,
    most: 1024,
  },
  channelExtra: {
    name: "hw.storvsc.chan_extra",
    description: "One sub-channel for each CPU beside the primary channel, as FreeBSD 10.2",
    value: 0,
    least: 0,
    most: 1,
  },
  nicChannelCount: {
    name: "hw.hn.chan_cnt",
    description: "# of channels to use; each channel has one RX ring and one TX ring",
    value: 0,
    least: 0,
    most: 65,
  },
  nicChimneySize: {
    name: "hw.hn.tx_chimney_size",
    description: "Chimney send packet size limit; 0: what a section holds",
    value: 0,
    least: 0,
    most: 65_536,
  },
  nicAggregationSize: {
    name: "hw.hn.tx_agg_size",
    description: "Packet transmission aggregation size limit; -1: automatic, 0: off",
    value: -1,
    least: -1,
    most: 65_536,
  },
  nicAggregationPackets: {
    name: "hw.hn.tx_agg_pkts",
    description: "Packet transmission aggregation packets limit; -1: automatic, 0: off",
    value: -1,
    least: -1,
    most: 1024,
  },
  nicReceiveBuffer: {
    name: "hw.hn.rxbuf_size",
    description:
      "Bytes of the receive buffer of each interface; 0: 16 MiB, or what there is room for",
    value: 0,
    least: 0,
    most: 31 * 2 ** 20,
  },
  nicSendBuffer: {
    name: "hw.hn.chim_size",
    description: "Bytes of the send buffer of each interface; 0: 15 MiB, or what there is room for",
    value: 0,
    least: 0,
    most: 15 * 2 ** 20,
  },
  nicTsoMaxlen: {
    name: "hw.hn.tso_maxlen",
    description: "TSO burst limit",
    value: 65_535,
    least: 0,
    most: 65_535,
  },
  nicUdpFixupMtu: {
    name: "hw.hn.udpcs_fixup_mtu",
    description: "UDP checksum fixup MTU threshold",
    value: 1420,
    least: 0,
    most: 65_536,
  },
  nicUdp4Checksum: {
    name: "hw.hn.enable_udp4cs",
    description: "Offload UDP/IPv4 checksum",
    value: 1,
    least: 0,
    most: 1,
  },
  nicUdp6Checksum: {
    name: "hw.hn.enable_udp6cs",
    description: "Offload UDP/IPv6 checksum",
    value: 1,
    least: 0,
    most: 1,
  },
  nicTrustTcp: {
    name: "hw.hn.trust_hosttcp",
    description: "Trust tcp segment verification on host side, when csum info is missing",
    value: 1,
    least: 0,
    most: 1,
  },
  nicTrustUdp: {
    name: "hw.hn.trust_hostudp",
    description: "Trust udp datagram verification on host side, when csum info is missing",
    value: 1,
    least: 0,
    most: 1,
  },
  nicTrustIp: {
    name: "hw.hn.trust_hostip",
    description: "Trust ip packet verification on host side, when csum info is missing",
    value: 1,
    least: 0,
    most: 1,
  },
  cpuTimeoutMs: {
    name: "kern.smp.timeout_ms",
    description: "How long a CPU may be silent before it is stopped",
    value: 30_000,
    least: 100,
    most: 3_600_000,
  },
  timeSyncIgnore: {
    name: "hw.hvtimesync.ignore_sync",
    description: "Ignore the sync request.",
    value: 0,
    least: 0,
    most: 1,
    isWritable: true,
  },
  timeSyncThresholdMs: {
    name: "hw.hvtimesync.sample_thresh",
    description: "Threshold that makes sample request trigger the sync (unit: ms).",
    value: 100,
    least: -1,
    most: 2 ** 31 - 1,
    isWritable: true,
  },
  timeSyncVerbose: {
    name: "hw.hvtimesync.sample_verbose",
    description: "Increase sample request verbosity.",
    value: 0,
    least: 0,
    most: 1,
    isWritable: true,
  },
} as const satisfies Readonly<Record<string, Tunable>>;

type TunableKey = keyof typeof tunables;

/** All of them, in this order. */
export const tunableKeys = Object.keys(tunables) as readonly TunableKey[];

/** The value of each tunable. */
export type TunableValues = Readonly<Record<TunableKey, number>>;

/**
 * Takes settings by name.
 *
 * Throws `ERR_TUNABLE` for a name that no tunable has, or a text that is no number that it takes.
 */
export function tune(settings: Readonly<Record<string, string | number>>): TunableValues {
  const values: Record<string, number> = {};
  for (const key of tunableKeys) values[key] = tunables[key].value;
  for (const [name, text] of Object.entries(settings)) {
    const key = tunableKeys.find((candidate) => tunables[candidate].name === name);
    if (key === undefined) {
      const names = tunableKeys.map((known) => tunables[known].name).join(", ");
      throw new BootError("ERR_TUNABLE", `there is no tunable ${name}; there are ${names}`);
    }
    values[key] = parseTunable(tunables[key], String(text));
  }
  return values as TunableValues;
}

/** The value that a text gives a tunable. Throws `ERR_TUNABLE`. */
export function parseTunable({ name, least, most }: Tunable, text: string): number {
  const value = /^-?\d{1,15}$/.test(text) ? Number(text) : NaN;
  if (value >= least && value <= most) return value;
  throw new BootError("ERR_TUNABLE", `${name}=${text}: a whole number from ${least} to ${most}`);
}
