import { DeviceClass, parseGuid } from "@hyperv-is/vmbus-core/protocol";
import { isDevice } from "../faults.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { TraceError } from "./trace-error.js";

/**
 * Channels to trace: each a relid in decimal digits, an instance or class id, or the name of a class as in
 * `DeviceClass`, such as `scsi`.
 */
export type TraceChannels = readonly string[];

/**
 * Parses a list of channels as a user writes it, `scsi,14`; `none` is the empty list.
 *
 * @throws TraceError `ERR_TRACE_CHANNELS` with the name that means nothing.
 */
export function parseTraceChannels(text: string): TraceChannels {
  if (text === "none") return [];
  return text.split(",").map((name) => {
    if (/^\d+$/.test(name)) return String(Number(name));
    if (Object.hasOwn(DeviceClass, name)) return name;
    const guid = parseGuid(name);
    if (guid !== undefined) return guid;
    throw new TraceError(
      "ERR_TRACE_CHANNELS",
      `"${name}" is no channel: write relids, instance ids, "none", or classes (${Object.keys(DeviceClass).join(" ")})`,
    );
  });
}

/** True if a channel that is being opened is one of those. */
export function isTraced(channels: TraceChannels, opening: ChannelOpening): boolean {
  return channels.some((name) => name === String(opening.relid) || isDevice(name, opening));
}
