import { VmbusError } from "@hyperv-is/vmbus-core";
import type { GpaRange, Guid, NtStatus } from "@hyperv-is/vmbus-core/protocol";
import type { SavedViolations } from "./violations.js";
import type { OpenRequest } from "./vmbus/channel.js";
import type { ConnectionInfo } from "./vmbus/connection.js";
import type { MessageTarget } from "./vmbus/effects.js";
import type { ChannelOpening } from "./vmbus/worker-link.js";

/** Memory that the guest has lent, and that a worker has taken. */
export interface SavedGpadl {
  readonly id: number;
  readonly announcedBytes: number;
  readonly ranges: readonly GpaRange[];
}

/** A channel that the guest knows. */
export interface SavedChannel {
  readonly instanceId: Guid;
  readonly subChannelIndex: number;
  readonly relid: number;
  readonly connectionId: number;
  readonly monitorId: number | undefined;
  readonly status: NtStatus;
  readonly gpadls: readonly SavedGpadl[];
  /** Undefined for a closed one. */
  readonly open: SavedOpening | undefined;
}

/** What an open channel is open by. */
export interface SavedOpening {
  readonly request: OpenRequest;
  /** As the worker got it, with the processor that its interrupts go to now. */
  readonly opening: ChannelOpening;
  readonly ownConnectionId: number | undefined;
  /** What its service said by `HostChannelHandler.save`. */
  readonly service: unknown;
}

/** The bus, when nothing is in progress on it. */
export interface SavedBus {
  /** Undefined without a guest. */
  readonly connection: ConnectionInfo | undefined;
  readonly areOffered: boolean;
  readonly target: MessageTarget;
  readonly channels: readonly SavedChannel[];
}

/**
 * A partition at rest: plain data (structured clone, `v8.serialize`). The guest's memory is not in it; it
 * belongs to it.
 */
export interface SavedPartition {
  /** All that the hypervisor keeps. */
  readonly words: Int32Array;
  readonly bus: SavedBus;
  readonly messagesIn: number;
  readonly messagesOut: number;
  readonly violations: SavedViolations;
}

/** A saved partition that does not fit where it shall go on. */
export class SavedPartitionError extends VmbusError<"ERR_SAVED_PARTITION"> {
  constructor(message: string) {
    super("ERR_SAVED_PARTITION", message);
  }
}
