import type { EthernetPort, EthernetUser } from "@hyperv-is/hv-netvsc";
import type { Vcpu } from "@hyperv-is/platform-node";
import type { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { FrameRelay, type RelayedBatch } from "./frame-relay.js";
import type { PortStack } from "./nic-stack.js";
import { TapBridge } from "./tap-bridge.js";

/** What a CPU is to do with the frames of a channel that is bound to it: plain data. */
export interface PortUse {
  /** Of the channel. */
  readonly relid: number;
  /** `hn0`. */
  readonly interface: string;
  readonly stack: PortStack;
}

/** Frames that came on another CPU than that of the stack. */
export interface RelayedFrames extends RelayedBatch {
  /** `hn0`. */
  readonly interface: string;
}

/** What a CPU offers to the users of its ports. */
export interface PortContext extends Pick<Vcpu, "drive" | "watch" | "doorbell"> {
  readonly memory: GuestMemory;
  readonly allocator: PageAllocator;
  /** Hands frames to the CPU of the guest's own stack; resolves when it has taken them. */
  deliver(frames: RelayedFrames): Promise<void>;
}

/** Makes the user of a port, on the port's CPU. */
export function usePort(port: EthernetPort, use: PortUse, context: PortContext): EthernetUser {
  const { stack } = use;
  switch (stack.kind) {
    case "builtin":
      return new FrameRelay(port, context.memory, (batch) =>
        context.deliver({ ...batch, interface: use.interface }),
      );
    case "tap":
      return bridge(port, stack, context);
  }
}

/** Joins a port with a queue of a TAP: the CPU's pump looks at that, too, and is woken when frames come there. */
function bridge(
  port: EthernetPort,
  { queue, mtu }: PortStack & { readonly kind: "tap" },
  { memory, allocator, doorbell, drive, watch }: PortContext,
): EthernetUser {
  const unwatch = watch(queue.fd);
  const made = new TapBridge({
    port,
    queue,
    memory,
    allocator,
    mtu,
    wake: () => doorbell.ring(),
    closed() {
      stop();
      unwatch();
    },
  });
  const stop = drive({ drain: () => made.drain() });
  return made;
}
