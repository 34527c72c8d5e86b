import { describe, expect, test } from "vitest";
import { PAGE_SIZE, Sint } from "@hyperv-is/vmbus-core/protocol";
import { HypervisorState, SyntheticInterrupts } from "../src/index.js";
import { VpRegister } from "../src/hypervisor/hypervisor-state.js";
import { memoryAtOffset } from "./scripted-guest.js";

const FLAGS_PAGE = 5 * PAGE_SIZE;
const ON = BigInt(FLAGS_PAGE) | 1n;

interface Registers {
  readonly scontrol?: bigint;
  readonly siefp?: bigint;
  readonly sint?: bigint;
}

function machine({ scontrol = 1n, siefp = ON, sint = 0xf3n }: Registers = {}) {
  const state = HypervisorState.create({ vps: 2, workers: 1 });
  const memory = memoryAtOffset(32);
  const interrupts: (readonly [vp: number, sint: number, vector: number])[] = [];
  const synic = new SyntheticInterrupts(state, memory, {
    interrupt: (...interrupt) => interrupts.push(interrupt),
    control: () => undefined,
    worker: () => undefined,
  });
  const set = (vp: number, register: number, value: bigint): void =>
    state.storeRegister(state.vpRegister(vp, register), value);
  set(1, VpRegister.scontrol, scontrol);
  set(1, VpRegister.siefp, siefp);
  set(1, VpRegister.sint0 + 2 * 2, sint);
  /** Byte of the event-flags page, and the bit in it. */
  const flag = (sintNumber: number, number: number): number =>
    (memory.bytes[FLAGS_PAGE + sintNumber * 256 + (number >>> 3)]! >>> (number & 7)) & 1;
  const anyFlag = (): boolean =>
    memory.bytes.subarray(0, 32 * PAGE_SIZE).some((byte) => byte !== 0);
  return { state, memory, synic, interrupts, set, flag, anyFlag };
}

describe("signal event", () => {
  test.each([0, 1, 31, 32, 63, 64, 2047])("flag %i is bit f%%8 of byte f/8", (number) => {
    const { synic, interrupts, flag } = machine();
    expect(synic.signalEvent(1, 2, number)).toBe(true);
    expect(flag(2, number)).toBe(1);
    expect(interrupts).toEqual([[1, 2, 0xf3]]);
  });

  test("a flag that is set already raises no second interrupt, until the guest takes it", () => {
    const { synic, interrupts, memory } = machine();
    synic.signalEvent(1, 2, 14);
    expect(synic.signalEvent(1, 2, 14)).toBe(false);
    synic.signalEvent(1, 2, 15);
    expect(interrupts).toHaveLength(2);
    memory.bytes[FLAGS_PAGE + 512 + 1] = 0;
    expect(synic.signalEvent(1, 2, 14)).toBe(true);
    expect(interrupts).toHaveLength(3);
  });

  test.each([
    ["SCONTROL is off", { scontrol: 0n }, 1, 2, 5],
    ["the SINT is masked", { sint: 0xf3n | Sint.masked }, 1, 2, 5],
    ["there is no event-flags page", { siefp: BigInt(FLAGS_PAGE) }, 1, 2, 5],
    ["the flag is 2048", {}, 1, 2, 2048],
    ["the flag is 65535", {}, 1, 2, 65_535],
    ["the SINT does not exist", {}, 1, 16, 5],
    ["the processor does not exist", {}, 2, 2, 5],
    ["the other processor was never set up", {}, 0, 2, 5],
  ] as const)("nothing at all happens when %s", (_, registers, vp, sint, flag) => {
    const { synic, interrupts, anyFlag } = machine(registers);
    expect(synic.signalEvent(vp, sint, flag)).toBe(false);
    expect(anyFlag()).toBe(false);
    expect(interrupts).toEqual([]);
  });

  test("a SINT in polling mode gets the flag and no interrupt", () => {
    const { synic, interrupts, flag } = machine({ sint: 0xf3n | Sint.polling });
    expect(synic.signalEvent(1, 2, 5)).toBe(true);
    expect(flag(2, 5)).toBe(1);
    expect(interrupts).toEqual([]);
  });

  test("vector and auto-EOI are those of the moment", () => {
    const { synic, interrupts, set } = machine({ sint: 0x2_00fcn });
    synic.signalEvent(1, 2, 1);
    expect(synic.isAutoEoi(1, 2)).toBe(true);
    set(1, VpRegister.sint0 + 2 * 2, 0x40n);
    synic.signalEvent(1, 2, 2);
    expect(synic.isAutoEoi(1, 2)).toBe(false);
    expect(interrupts.map(([, , vector]) => vector)).toEqual([0xfc, 0x40]);
  });

  test("a guest that moves the page gets its flags in the new one", () => {
    const { synic, memory, set } = machine();
    synic.signalEvent(1, 2, 3);
    set(1, VpRegister.siefp, BigInt(9 * PAGE_SIZE) | 1n);
    expect(synic.signalEvent(1, 2, 3)).toBe(true);
    expect(memory.bytes[9 * PAGE_SIZE + 512]).toBe(1 << 3);
  });

  test("no byte outside the area of the SINT is touched", () => {
    const { synic, memory } = machine();
    for (let flag = 0; flag < 2048; flag++) synic.signalEvent(1, 2, flag);
    const changed = [...memory.bytes.keys()].filter((at) => memory.bytes[at] !== 0);
    expect([changed[0], changed.at(-1), changed.length]).toEqual([
      FLAGS_PAGE + 512,
      FLAGS_PAGE + 767,
      256,
    ]);
    const around = new Uint8Array(memory.buffer, 0, memory.byteOffset);
    expect(around.every((byte) => byte === 0xa5)).toBe(true);
  });
});
