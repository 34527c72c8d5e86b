import type { FaultAt, FaultContext, FaultPlan } from "../faults.js";

/** A fault of one frame. */
export type FrameFault = FaultAt<"switch.frame">;

/** Asks the fault plan about the frames of one port. */
export class FrameFaults {
  readonly #plan: FaultPlan;
  readonly #transmit: FaultContext;
  readonly #receive: FaultContext;

  /** @param device - the port's device, as fault plans name it; empty for a port without one. */
  constructor(plan: FaultPlan, device: Pick<FaultContext, "classId" | "instanceId">) {
    this.#plan = plan;
    this.#transmit = { ...device, operation: "transmit" };
    this.#receive = { ...device, operation: "receive" };
  }

  /** What happens to the frame that the port's end sends. */
  transmit(): FrameFault | undefined {
    return this.#at(this.#transmit);
  }

  /** What happens to the frame that goes to the port's end. */
  receive(): FrameFault | undefined {
    return this.#at(this.#receive);
  }

  #at(context: FaultContext): FrameFault | undefined {
    if (!this.#plan.isArmed("switch.frame")) return undefined;
    return this.#plan.at("switch.frame", context);
  }
}
