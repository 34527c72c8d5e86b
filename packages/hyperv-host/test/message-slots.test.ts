import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  GpadlCreated,
  MESSAGE_PENDING,
  MessageSlot,
  PAGE_SIZE,
  SynicMessageType,
} from "@hyperv-is/vmbus-core/protocol";
import {
  HostMessageSlot,
  HypervisorState,
  MessageSlots,
  SyntheticInterrupts,
  type HostMessageSlotFactory,
} from "../src/index.js";
import { VpRegister } from "../src/hypervisor/hypervisor-state.js";
import { memoryAtOffset } from "./scripted-guest.js";

const MESSAGE_PAGE = 3 * PAGE_SIZE;
const SLOT = MESSAGE_PAGE + 512;

function machine(makeSlot?: HostMessageSlotFactory) {
  const state = HypervisorState.create({ vps: 2, workers: 1 });
  const memory = memoryAtOffset(16);
  const interrupts: string[] = [];
  const dropped: string[] = [];
  const synic = new SyntheticInterrupts(state, memory, {
    interrupt: (vp, sint, vector) => interrupts.push(`${vp}.${sint}.${vector}`),
    control: () => undefined,
    worker: () => undefined,
  });
  const set = (register: number, value: bigint): void =>
    state.storeRegister(state.vpRegister(1, register), value);
  set(VpRegister.scontrol, 1n);
  set(VpRegister.simp, BigInt(MESSAGE_PAGE) | 1n);
  set(VpRegister.sint0 + 2 * 2, 0xf3n);
  set(VpRegister.sint0 + 2 * 4, 0xf4n);
  const slots = new MessageSlots({
    state,
    memory,
    interrupts: synic,
    dropped: (vp, sint) => dropped.push(`${vp}.${sint}`),
    ...(makeSlot && { makeSlot }),
  });
  const slot = (): MessageSlot => MessageSlot.parse(memory.copyOut(SLOT, MessageSlot.SIZE))!;
  return { state, memory, slots, interrupts, dropped, set, slot };
}

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

/** What a guest does with its slot, one access at a time. */
class GuestSlot {
  readonly taken: number[] = [];
  readonly #memory: GuestMemory;
  readonly #endOfMessage: () => void;
  #step = 0;

  constructor(memory: GuestMemory, endOfMessage: () => void) {
    this.#memory = memory;
    this.#endOfMessage = endOfMessage;
  }

  /** True between the start of a look and its end. */
  get isBusy(): boolean {
    return this.#step !== 0;
  }

  /** The next access; false if the slot is empty and nothing began. */
  step(): boolean {
    const type = SLOT >>> 2;
    switch (this.#step) {
      case 0:
        if (Atomics.load(this.#memory.words, type) === SynicMessageType.none) return false;
        this.taken.push(this.#memory.bytes[SLOT + 16]!);
        this.#step = 1;
        return true;
      case 1:
        Atomics.store(this.#memory.words, type, SynicMessageType.none);
        this.#step = 2;
        return true;
      default:
        this.#step = 0;
        if ((this.#memory.bytes[SLOT + 5]! & MESSAGE_PENDING) !== 0) this.#endOfMessage();
        return true;
    }
  }
}

describe("message slots", () => {
  test("V31: a GPADL_CREATED as it lies in slot 2, then marked as followed by another", () => {
    const { memory, slots, interrupts } = machine();
    memory.bytes.fill(0xee, SLOT + 4, SLOT + 256);
    slots.post(1, 2, GpadlCreated.emit({ relid: 14, gpadlId: 0xe1e10, status: 0 }));
    slots.post(1, 2, bytes(1));
    const expected = new Uint8Array(256);
    expected.set(
      Uint8Array.from(
        "010000001401000000000000000000000a000000000000000e000000101e0e00".match(/../g)!,
        (byte) => Number.parseInt(byte, 16),
      ),
    );
    expect(memory.copyOut(SLOT, 256)).toEqual(expected);
    expect(interrupts).toEqual(["1.2.243"]);
  });

  test("without another message the slot does not ask for EOM", () => {
    const { slots, slot } = machine();
    slots.post(1, 2, bytes(7, 8, 9));
    expect(slot()).toMatchObject({ messageType: 1, payloadSize: 3, flags: 0, sender: 0n });
    expect(slots.backlog).toBe(0);
  });

  test("an occupied slot is never written; its message comes after EOM, in order", () => {
    const { state, memory, slots, slot, interrupts } = machine();
    for (const value of [1, 2, 3]) slots.post(1, 2, bytes(value));
    expect(slots.backlog).toBe(2);
    expect(slot()).toMatchObject({ messageType: 1, flags: MESSAGE_PENDING });
    for (const next of [2, 3]) {
      memory.words[SLOT >>> 2] = 0;
      slots.run();
      // Nothing came without EOM.
      expect(slot().messageType).toBe(0);
      state.endOfMessage.set(1);
      slots.run();
      expect(slot().payload[0]).toBe(next);
    }
    expect(slot().flags).toBe(0);
    expect(interrupts).toHaveLength(3);
  });

  test("EOM of another processor, or with a full slot, changes nothing but the flag", () => {
    const { state, slots, slot } = machine();
    slots.post(1, 2, bytes(1));
    slots.post(1, 2, bytes(2));
    state.endOfMessage.set(0);
    state.endOfMessage.set(1);
    slots.run();
    expect(slot().payload[0]).toBe(1);
    expect(slots.backlog).toBe(1);
  });

  test("SINTs have slots and queues of their own", () => {
    const { memory, slots, interrupts } = machine();
    slots.post(1, 2, bytes(1));
    slots.post(1, 4, bytes(2));
    expect(memory.bytes[MESSAGE_PAGE + 4 * 256 + 16]).toBe(2);
    expect(slots.backlog).toBe(0);
    expect(interrupts).toEqual(["1.2.243", "1.4.244"]);
  });

  test.each([
    ["masked SINT", VpRegister.sint0 + 4, 0x1_00f3n],
    ["SynIC off", VpRegister.scontrol, 0n],
    ["no message page", VpRegister.simp, BigInt(MESSAGE_PAGE)],
  ])("%s: the message is lost, not kept", (_, register, value) => {
    const { slots, dropped, set, slot, interrupts } = machine();
    set(register, value);
    slots.post(1, 2, bytes(1));
    expect(dropped).toEqual(["1.2"]);
    expect(slots.backlog).toBe(0);
    expect(slot().messageType).toBe(0);
    expect(interrupts).toEqual([]);
  });

  test("messages that wait are lost when the SINT is masked meanwhile", () => {
    const { state, slots, dropped, set, memory } = machine();
    for (const value of [1, 2, 3]) slots.post(1, 2, bytes(value));
    memory.words[SLOT >>> 2] = 0;
    set(VpRegister.sint0 + 4, 0x1_00f3n);
    state.endOfMessage.set(1);
    slots.run();
    expect(dropped).toEqual(["1.2", "1.2"]);
    expect(slots.backlog).toBe(0);
  });

  test.each([
    ["processor", 2, 2],
    ["SINT", 1, 200],
  ])("a %s that does not exist gets nothing", (_, vp, sint) => {
    const { slots, dropped } = machine();
    slots.post(vp, sint, bytes(1));
    expect(dropped).toEqual([`${vp}.${sint}`]);
  });

  test("a polling SINT gets the message without an interrupt", () => {
    const { slots, slot, set, interrupts } = machine();
    set(VpRegister.sint0 + 4, 0x4_00f3n);
    slots.post(1, 2, bytes(9));
    expect(slot().payload[0]).toBe(9);
    expect(interrupts).toEqual([]);
  });

  test("any interleaving of host and guest accesses delivers each message once, in order", () => {
    // Who makes the next access: true is the guest. The host's own accesses ask before each of theirs.
    fc.assert(
      fc.property(
        fc.array(fc.boolean(), { maxLength: 200 }),
        fc.integer({ min: 1, max: 12 }),
        (turns, count) => {
          let turn = 0;
          const guestRuns = (): void => {
            while (turn < turns.length && turns[turn++] === true) guest.step();
          };
          class Interleaved extends HostMessageSlot {
            override isEmpty(): boolean {
              guestRuns();
              const empty = super.isEmpty();
              guestRuns();
              return empty;
            }
            override requestEndOfMessage(): void {
              guestRuns();
              super.requestEndOfMessage();
              guestRuns();
            }
          }
          const { state, memory, slots } = machine((...slot) => new Interleaved(...slot));
          const guest = new GuestSlot(memory, () => state.endOfMessage.set(1));
          for (let value = 1; value <= count; value++) {
            slots.post(1, 2, bytes(value));
            guestRuns();
            slots.run();
          }
          // Then both go on alone; a stream that has stopped stays stopped.
          for (let idle = 0; idle < 4; idle++) {
            while (guest.step()) slots.run();
            slots.run();
          }
          expect(guest.taken).toEqual(Array.from({ length: count }, (_, index) => index + 1));
          expect(slots.backlog).toBe(0);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
