import type { Channel, ChannelHandler, GuestMemory, Timers } from "@hyperv-is/vmbus-core";
import type { GpaRange, Guid, NtStatus } from "@hyperv-is/vmbus-core/protocol";
import type { FaultPlan } from "./faults.js";
import type { ChannelOpening } from "./vmbus/worker-link.js";

/** A kind of device as a host worker serves it: makes the handler of each channel that a guest opens. */
export interface HostService {
  /**
   * Answers the opening of a channel, primary or sub-channel.
   *
   * @returns The channel's handler, or a failing `NtStatus` to refuse.
   */
  open(opening: ChannelOpening, context: ServiceContext): HostChannelHandler | NtStatus;
}

/** What handles the packets of one open channel on the host. */
export interface HostChannelHandler extends ChannelHandler {
  /** The channel is there, and will be polled for the first time soon. Packets may be sent from now on. */
  opened(channel: Channel): void;
  /**
   * Ends the service of a channel that is closed already: no packet can be sent any more. Calls `done`,
   * now or later, once nothing that the guest lent (its request buffers above all) is touched any more.
   */
  release(done: () => void): void;
  /**
   * The guest has let go of this channel, which was rescinded: until now it may have read what was sent on it. A
   * handler without this method has lent nothing that depends on it.
   */
  guestReleased?(): void;
  /**
   * The guest takes back a GPADL that this channel may be using; `done` as above. A handler without this
   * method uses none but the rings.
   */
  gpadlTeardown?(gpadlId: number, done: () => void): void;
  /**
   * What the service must know to go on with this channel in another process: plain data. Undefined while
   * something is in flight. The rings are empty; counters and settings of the device are no part of it.
   * A channel whose handler lacks this method cannot be saved.
   */
  save?(): { readonly data: unknown } | undefined;
  /** Goes on from what `save` said of this channel, after `opened`. */
  restore?(data: unknown): void;
}

/** What a host worker offers to the service of one channel. */
export interface ServiceContext {
  readonly memory: GuestMemory;
  readonly timers: Timers;
  readonly faults: FaultPlan;
  /**
   * Is told of data that the service has put into the guest's memory, rings apart; undefined where nobody
   * needs to know. A processor that keeps translated code forgets it then.
   */
  readonly dataWritten?: ((address: number, lengthBytes: number) => void) | undefined;
  /** The ranges of a GPADL that the guest made on this channel, every page checked; undefined if there is none. */
  gpadl(gpadlId: number): readonly GpaRange[] | undefined;
  /** Puts the channel on the list of those to poll, and wakes the worker's thread if it sleeps. */
  schedule(): void;
  /** Has sub-channels 1 to `count` of this device offered, as far as they are not there already. */
  offerSubChannels(count: number): void;
  /** Has the device rescinded, and offered again after a while if a number is given. */
  rescind(reofferAfterMs?: number): void;
  /** Records that the guest broke a rule of this device's protocol. @param rule - stable, lower-case, hyphens. */
  violation(rule: string, detail: string): void;
}

/** Which devices a service is for: all of a class, or one instance. */
export interface ServiceMatch {
  readonly classId: Guid;
  readonly instanceId?: Guid;
}
