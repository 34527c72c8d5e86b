import { BusError } from "./bus/bus-error.js";
import type { ChannelDescription } from "./channel-description.js";
import type { Channel, ChannelHandler } from "./channel.js";
import type { Timers } from "./clock.js";
import type { ControlContext, QueueContext, VmbusDevice } from "./driver.js";
import type { GuestMemory } from "./guest-memory.js";
import type { PageAllocator } from "./page-allocator.js";
import { PAGE_SIZE } from "./protocol/gpa-ranges.js";
import { ProtocolVersion } from "./protocol/versions.js";
import { localQueue, type QueueHalf, type TellControl } from "./queue-handle.js";

/** A channel to a device that does not come from our bus: a loopback pair, say, or a mapped device. */
export interface OwnChannel {
  /** Memory that both ends see. */
  readonly memory: GuestMemory;
  /** Pages of it that the driver may use. */
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** Makes the driver's end of the open channel, whose packets go to `handler`. Called again each time the driver opens it. */
  connect(handler: ChannelHandler): Channel;
  /**
   * Has the host know of shared memory; returns the handle by which the driver names it. Without this, handles
   * count from 1, in the order in which the driver shares.
   */
  share?(address: number, lengthBytes: number): number;
  /** Called each time the driver no longer uses the channel. */
  close?(): void;
  /** One line of what the driver has to say; dropped unless told. */
  log?(line: string): void;
}

/** What a driver's control half may use over a channel of one's own: what the bus would have offered is not there. */
export interface OwnChannelContext<Queue extends QueueHalf> extends Pick<
  ControlContext<Queue>,
  "timers" | "cpus" | "log" | "startQueue"
> {
  readonly device: Pick<
    VmbusDevice,
    | "busVersion"
    | "rescinded"
    | "prepareChannel"
    | "openChannel"
    | "closeChannel"
    | "createGpadl"
    | "tearDownGpadl"
    | "onSubChannel"
  >;
}

/** The bus knows where the rings are; the channel was made without one. */
const description: ChannelDescription = {
  relid: 0,
  subChannelIndex: 0,
  targetVp: 0,
  ringAddress: 0,
  outgoingPages: 0,
  incomingPages: 0,
  signal: { connectionId: 0 },
};

/** Stands in for a bus that has one device with one channel, and for a kernel of one CPU. @param make - The driver's queue half. */
export function ownChannelContext<Queue extends QueueHalf>(
  own: OwnChannel,
  make: (cpu: QueueContext, description: unknown, tell: TellControl) => Queue,
): OwnChannelContext<Queue> {
  const { memory, allocator, timers } = own;
  let channel: Channel | undefined;
  let handles = 0;
  const cpu: QueueContext = {
    memory,
    allocator,
    timers,
    bindChannel: (_, handler) => (channel = own.connect(handler)),
    unbindChannel(_, reason) {
      channel?.close(reason);
    },
  };
  return {
    device: {
      busVersion: ProtocolVersion.v5_3,
      rescinded: new Promise(() => undefined),
      prepareChannel: () => Promise.resolve(description),
      openChannel: () => Promise.resolve(),
      closeChannel: () => Promise.resolve(own.close?.()),
      createGpadl: (pageCount) => {
        const address = allocator.allocate(pageCount);
        if (address === undefined)
          return Promise.reject(new BusError("ERR_NO_MEMORY", `${pageCount} pages to share`));
        const gpadlId = own.share?.(address, pageCount * PAGE_SIZE) ?? ++handles;
        return Promise.resolve({ gpadlId, address, pageCount });
      },
      tearDownGpadl: ({ address }) => {
        allocator.free(address);
        return Promise.resolve();
      },
      onSubChannel: () => undefined,
    },
    timers,
    cpus: [0],
    log: (line) => own.log?.(line),
    startQueue: (_, plain, told) => Promise.resolve(localQueue(0, make(cpu, plain, told))),
  };
}
