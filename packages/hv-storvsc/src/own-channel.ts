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
import { ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { StorageClassId } from "./protocol/index.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import { StorvscQueueHalf } from "./queue-half.js";
import { attachStorvsc, type StorvscOptions } from "./storvsc-control.js";
import type { StorvscController } from "./storvsc-controller.js";

/** A channel to a storage host that does not come from our bus: a loopback pair, say, or a mapped device. */
export interface OwnChannel {
  /** Memory that both ends see. */
  readonly memory: GuestMemory;
  /** Pages of it that the driver may use. */
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** Called once: makes the driver's end of the open channel, whose packets go to `handler`. */
  connect(handler: ChannelHandler): Channel;
  /** Called once, when the driver no longer uses the channel. */
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

/** Attaches a SCSI controller to a channel of your own, without a bus; rejects as `attachStorvsc` does. */
export function attachOverChannel(
  own: OwnChannel,
  options?: StorvscOptions,
): Promise<StorvscController> {
  let channel: Channel | undefined;
  const cpu: QueueContext = {
    memory: own.memory,
    allocator: own.allocator,
    timers: own.timers,
    bindChannel: (_, handler) => (channel = own.connect(handler)),
    unbindChannel(_, reason) {
      channel?.close(reason);
    },
  };
  return attachStorvsc(
    {
      device: {
        classId: StorageClassId.scsi,
        instanceId: "00000000-0000-0000-0000-000000000000",
        busVersion: ProtocolVersion.v5_3,
        rescinded: new Promise(() => undefined),
        prepareChannel: () => Promise.resolve(description),
        openChannel: () => Promise.resolve(),
        closeChannel: () => Promise.resolve(own.close?.()),
        onSubChannel: () => undefined,
      },
      timers: own.timers,
      cpus: [0],
      log: (line) => own.log?.(line),
      startQueue: (_, plain, told) => {
        const half = new StorvscQueueHalf(cpu, plain as StorvscQueueDescription, told);
        return Promise.resolve(localQueue(0, half));
      },
    },
    options,
  );
}
