import { expect, test } from "vitest";
import { EventFlags } from "@hyperv-is/vmbus-core";
import {
  HYPERCALL_FAST,
  HypercallCode,
  PAGE_SIZE,
  VMBUS_SINT,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import { HypervisorState, SyntheticInterrupts, VirtualProcessor } from "../src/index.js";
import { VpRegister } from "../src/hypervisor/hypervisor-state.js";
import { portOf } from "../src/hypervisor/signal-ports.js";
import { memoryAtOffset } from "./scripted-guest.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { leastGarbage } from "../../../tools/garbage.js";

const SIGNALS = 100_000;

test("signals of both directions leave nothing on the heap", () => {
  const state = HypervisorState.create({ vps: 1, workers: 1 });
  const memory = memoryAtOffset(16);
  let rung = 0;
  const bells = {
    interrupt: () => {
      rung++;
    },
    control: () => {
      rung++;
    },
    worker: () => {
      rung++;
    },
  };
  const processor = new VirtualProcessor({
    state,
    memory,
    index: 0,
    bells,
    clock: new VirtualTimers(),
  });
  const interrupts = new SyntheticInterrupts(state, memory, bells);
  const set = (register: number, value: bigint): void =>
    state.storeRegister(state.vpRegister(0, register), value);
  processor.writeMsr(0x4000_0000, 1n << 63n);
  set(VpRegister.scontrol, 1n);
  set(VpRegister.siefp, BigInt(5 * PAGE_SIZE) | 1n);
  set(VpRegister.sint0 + 2 * VMBUS_SINT, 0xf3n);
  const connection = eventConnectionId(14, VMBUS_SINT, 0);
  state.ports.connect(connection, portOf(0, 14));
  const workerFlags = state.workerFlags(0);
  const guestFlags = EventFlags.at(memory, 5 * PAGE_SIZE + VMBUS_SINT * 256, 256);
  const fast = HypercallCode.signalEvent | HYPERCALL_FAST;

  let sent = 0;
  const signalBothWays = (): void => {
    sent++;
    if (processor.hypercall(fast, connection, 0) !== 0) throw new Error("not signalled");
    if (workerFlags.take(0) !== 1 << 14) throw new Error("no flag for the host");
    interrupts.signalEvent(0, VMBUS_SINT, 14);
    if (guestFlags.take(0) !== 1 << 14) throw new Error("no flag for the guest");
  };
  const least = leastGarbage(SIGNALS, () => {
    for (let signal = 0; signal < SIGNALS; signal++) signalBothWays();
  });
  expect(rung).toBe(sent * 2);
  expect(least).toBeLessThan(1);
});
