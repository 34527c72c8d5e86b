import type { SavedChannel } from "../saved-partition.js";
import type { SavedWorkerChannel } from "../worker-channel.js";
import type { ServerChannel } from "./channel.js";
import type { Gpadl } from "./gpadl.js";

/** A channel that was saved, as it goes on. */
export interface RestoredChannel {
  readonly key: number;
  readonly worker: number;
  readonly saved: SavedChannel;
}

/**
 * A channel that the guest knows, as plain data.
 *
 * @param worker - What its worker says of it while it is open.
 * @returns Undefined while something is in progress on it.
 */
export function saveChannel(
  channel: ServerChannel,
  gpadls: readonly Gpadl[],
  worker: SavedWorkerChannel | undefined,
): SavedChannel | undefined {
  const { state, relid, open } = channel;
  const isOpen = state === "open";
  const isAtRest =
    (isOpen ? worker !== undefined : state === "closed") &&
    channel.modify === undefined &&
    gpadls.every((gpadl) => gpadl.state === "accepted");
  if (!isAtRest || relid === undefined) return undefined;
  return {
    instanceId: channel.offer.instanceId,
    subChannelIndex: channel.subChannelIndex,
    relid,
    connectionId: channel.connectionId,
    monitorId: channel.monitorId,
    status: channel.status,
    gpadls: gpadls.map(({ id, announcedBytes, ranges }) => ({ id, announcedBytes, ranges })),
    open:
      worker === undefined || open === undefined
        ? undefined
        : { ...worker, request: open, ownConnectionId: channel.ownConnectionId },
  };
}

/** Has a channel that no guest knows go on as one that was saved. Its relid and its GPADLs are the caller's to restore. */
export function restoreChannel(channel: ServerChannel, saved: SavedChannel): void {
  const { open } = saved;
  channel.state = open === undefined ? "closed" : "open";
  channel.relid = saved.relid;
  channel.connectionId = saved.connectionId;
  channel.monitorId = saved.monitorId;
  channel.status = saved.status;
  channel.open = open?.request;
  channel.opening = open && { ...open.opening, key: channel.key };
  channel.ownConnectionId = open?.ownConnectionId;
}
