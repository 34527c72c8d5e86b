import { versionHas } from "@hyperv-is/vmbus-core/protocol";
import type { AttachmentOptions } from "./attachment-io.js";
import type { NetvscContext } from "./netvsc-context.js";
import { NetvscInterface } from "./netvsc-interface.js";
import type { SessionOptions } from "./netvsc-session.js";
import type { OffloadWishes } from "./offload-choice.js";
import { ReceiveTrust } from "./queue-description.js";

/** What can be chosen about an interface; FreeBSD's tunables `hw.hn.*` are among it. */
export interface NetvscOptions extends Pick<
  AttachmentOptions,
  "versions" | "mtu" | "receiveBufferBytes" | "sendBufferBytes"
> {
  /** Pages of each ring, control page included; 128 unless told, as in FreeBSD. */
  readonly ringPages?: number;
  /** Channels at most, the primary included (`chan_cnt`); 0, unless told, for one per CPU, at most 8. */
  readonly channelLimit?: number;
  /** Sends that can be on their way per channel; 512 unless told. */
  readonly descriptors?: number;
  /** Largest message to copy into the send buffer (`tx_chimney_size`); 0, unless told, for what a section holds. */
  readonly copyBytesMax?: number;
  /** Most bytes and messages of one send (`tx_agg_size`, `tx_agg_pkts`); -1, unless told, for what the host allows; 0: one message. */
  readonly aggregationBytes?: number;
  readonly aggregationPackets?: number;
  /** Longest IPv4 packet without "don't fragment" whose UDP checksum is left to the host (`udpcs_fixup_mtu`); 1420 unless told. */
  readonly udpChecksumBytesMax?: number;
  /** Whether checksums of which the host says nothing count as right (`trust_hosttcp`, `trust_hostudp`, `trust_hostip`); they do unless told. */
  readonly trustTcp?: boolean;
  readonly trustUdp?: boolean;
  readonly trustIp?: boolean;
  /** Offloads to use, of those that the host has; all unless told. */
  readonly offloads?: OffloadWishes;
  /** How long the host may take for an answer; 60,000 unless told. */
  readonly answerTimeoutMs?: number;
  /** How long to wait for sub-channels that the host has promised, or is to take back; 2,000 unless told. */
  readonly subChannelTimeoutMs?: number;
  /** How long to wait where the host confirms nothing; 200 unless told, as in FreeBSD. */
  readonly settleMs?: number;
  /** How long detaching waits for sends that are under way; 60,000 unless told. */
  readonly drainTimeoutMs?: number;
  /** How often to ask the host whether it is there; never unless told. */
  readonly keepaliveIntervalMs?: number;
}

/** FreeBSD opens no more channels by itself. */
const DEFAULT_CHANNELS_MAX = 8;

/**
 * Attaches an interface, on the boot processor: opens its channel, agrees on everything, and has sub-channels opened
 * on the other CPUs. Frames come once a filter is set and a port has a user.
 *
 * Rejects with `NetvscError` (or what the bus rejects with) when a step fails; everything is taken back then.
 */
export function attachNetvsc(
  context: NetvscContext,
  options: NetvscOptions = {},
): Promise<NetvscInterface> {
  return NetvscInterface.attach(context, sessionOptions(context, options));
}

function sessionOptions(context: NetvscContext, options: NetvscOptions): SessionOptions {
  const { device, cpus } = context;
  const settleMs = options.settleMs ?? 200;
  const answerTimeoutMs = options.answerTimeoutMs ?? 60_000;
  const limit = options.channelLimit ?? 0;
  const wanted = limit === 0 ? Math.min(cpus.length, DEFAULT_CHANNELS_MAX) : limit;
  let trust = 0;
  if (options.trustTcp !== false) trust |= ReceiveTrust.tcp;
  if (options.trustUdp !== false) trust |= ReceiveTrust.udp;
  if (options.trustIp !== false) trust |= ReceiveTrust.ip;
  const { versions, mtu, receiveBufferBytes, sendBufferBytes, offloads } = options;
  return {
    attachment: {
      // A bus that has no sub-channels offers none, whatever the adapter says.
      channels: versionHas(device.busVersion, "subChannels") ? wanted : 1,
      stepTimeoutMs: answerTimeoutMs,
      settleMs,
      ...(versions !== undefined && { versions }),
      ...(mtu !== undefined && { mtu }),
      ...(receiveBufferBytes !== undefined && { receiveBufferBytes }),
      ...(sendBufferBytes !== undefined && { sendBufferBytes }),
      ...(offloads !== undefined && { offloads }),
    },
    ringPages: options.ringPages ?? 128,
    tuning: {
      descriptors: options.descriptors ?? 512,
      copyBytesMax: options.copyBytesMax ?? 0,
      aggregationBytes: options.aggregationBytes ?? -1,
      aggregationPackets: options.aggregationPackets ?? -1,
      udpChecksumBytesMax: options.udpChecksumBytesMax ?? 1420,
      trust,
    },
    answerTimeoutMs,
    subChannelTimeoutMs: options.subChannelTimeoutMs ?? 2_000,
    settleMs,
    drainTimeoutMs: options.drainTimeoutMs ?? 60_000,
    keepaliveIntervalMs: options.keepaliveIntervalMs ?? 0,
  };
}
