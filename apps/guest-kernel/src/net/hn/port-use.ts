import type { EthernetPort, EthernetUser } from "@hyperv-is/hv-netvsc";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { FrameRelay, type RelayedBatch } from "./frame-relay.js";
import type { NicStack } from "./nic-stack.js";

/** What a CPU is to do with the frames of a channel that is bound to it: plain data. */
export interface PortUse {
  /** Of the channel. */
  readonly relid: number;
  /** `hn0`. */
  readonly interface: string;
  readonly stack: NicStack;
}

/** Frames that came on another CPU than that of the stack. */
export interface RelayedFrames extends RelayedBatch {
  /** `hn0`. */
  readonly interface: string;
}

/** What a CPU offers to the users of its ports. */
export interface PortContext {
  readonly memory: GuestMemory;
  /** Hands frames to the CPU of the guest's own stack; resolves when it has taken them. */
  deliver(frames: RelayedFrames): Promise<void>;
}

/** Makes the user of a port, on the port's CPU. */
export function usePort(port: EthernetPort, use: PortUse, context: PortContext): EthernetUser {
  switch (use.stack.kind) {
    case "builtin":
      return new FrameRelay(port, context.memory, (batch) =>
        context.deliver({ ...batch, interface: use.interface }),
      );
    case "tap":
      throw new Error("stack=tap: is not supported yet");
  }
}
