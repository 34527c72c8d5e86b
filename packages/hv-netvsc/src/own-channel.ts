import {
  localQueue,
  type Channel,
  type ChannelDescription,
  type ChannelHandler,
  type GuestMemory,
  type PageAllocator,
  type QueueContext,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { NetvscError } from "./errors.js";
import { attachNetvsc, type NetvscOptions } from "./netvsc-control.js";
import type { NetvscInterface } from "./netvsc-interface.js";
import type { NetvscQueueDescription } from "./queue-description.js";
import { NetvscQueueHalf } from "./queue-half.js";

/** A channel to a network host that does not come from our bus: a loopback pair, say, or a mapped device. */
export interface OwnChannel {
  /** Memory that both ends see. */
  readonly memory: GuestMemory;
  /** Pages of it that the driver may use. */
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** Makes the driver's end of the open channel, whose packets go to `handler`. Called again by each MTU change. */
  connect(handler: ChannelHandler): Channel;
  /**
   * Has the host know of shared memory; returns the handle by which the driver names it. Without this, handles
   * count from 1, receive buffer and send buffer by turns.
   */
  share?(address: number, lengthBytes: number): number;
  /** Called when the driver no longer uses the channel. */
  close?(): void;
  /** One line of what the driver has to say; dropped unless told. */
  log?(line: string): void;
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

/** Attaches an interface to a channel of your own, without a bus and so with one channel; rejects as `attachNetvsc` does. */
export function attachOverChannel(
  own: OwnChannel,
  options?: NetvscOptions,
): Promise<NetvscInterface> {
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
  return attachNetvsc(
    {
      device: {
        busVersion: ProtocolVersion.v5_3,
        rescinded: new Promise(() => undefined),
        prepareChannel: () => Promise.resolve(description),
        openChannel: () => Promise.resolve(),
        closeChannel: () => Promise.resolve(own.close?.()),
        createGpadl: (pageCount) => {
          const address = allocator.allocate(pageCount);
          if (address === undefined)
            return Promise.reject(
              new NetvscError("ERR_NETVSC_MEMORY", `no room for ${pageCount} pages`),
            );
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
      startQueue: (_, plain, told) => {
        const half = new NetvscQueueHalf(cpu, plain as NetvscQueueDescription, told);
        return Promise.resolve(localQueue(0, half));
      },
    },
    options,
  );
}
