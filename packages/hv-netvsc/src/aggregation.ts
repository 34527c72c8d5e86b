import type { QueueTuning, TransmitSide } from "./queue-description.js";

/** Least bytes of a message that carries a frame: below twice of it a section is for one message only. */
const SMALLEST_MESSAGE_BYTES = 44 + 14;

/** How much goes into one send, as far as frames are copied (`agg_szmax`, `agg_pktmax`); both are 0 when each has its own. */
export interface Aggregation {
  readonly bytesMax: number;
  readonly messagesMax: number;
}

/** What is wanted, as far as the host and a section of the send buffer allow it. */
export function aggregationOf(
  { aggregationBytes, aggregationPackets }: QueueTuning,
  host: Pick<TransmitSide, "maxBytes" | "maxPackets">,
  sectionBytes: number,
): Aggregation {
  const wantedBytes = aggregationBytes < 0 ? sectionBytes : aggregationBytes;
  const wantedMessages = aggregationPackets < 0 ? host.maxPackets : aggregationPackets;
  const bytesMax = Math.min(wantedBytes, host.maxBytes, sectionBytes);
  const messagesMax = Math.min(wantedMessages, host.maxPackets);
  const isOn = bytesMax > 2 * SMALLEST_MESSAGE_BYTES && messagesMax > 1;
  return isOn ? { bytesMax, messagesMax } : { bytesMax: 0, messagesMax: 0 };
}
