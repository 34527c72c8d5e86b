import { describe, expect, test } from "vitest";
import {
  CpuidLeaf,
  HYPERCALL_FAST,
  HYPERVISOR_INTERFACE,
  HypercallCode,
  HypercallStatus,
  Msr,
  PAGE_SIZE,
  PostMessageInput,
  SINT_COUNT,
  SignalEventInput,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import {
  GeneralProtectionFault,
  HypervisorState,
  VirtualProcessor,
  type TimerFrequencies,
} from "../src/index.js";
import { portOf } from "../src/hypervisor/signal-ports.js";
import { memoryAtOffset } from "./scripted-guest.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

const INPUT = 7 * PAGE_SIZE;

interface MachineOptions {
  readonly vps?: number;
  readonly queueEntries?: number;
  readonly frequencies?: TimerFrequencies;
}

function machine(options: MachineOptions = {}) {
  const state = HypervisorState.create({ vps: 2, workers: 2, ...options });
  const memory = memoryAtOffset(64);
  const timers = new VirtualTimers();
  const rung: string[] = [];
  const written: number[] = [];
  const processor = new VirtualProcessor({
    state,
    memory,
    index: 1,
    clock: timers,
    bells: {
      interrupt: (vp) => rung.push(`interrupt ${vp}`),
      control: () => rung.push("control"),
      worker: (index) => rung.push(`worker ${index}`),
    },
    writeHypercallPage: (_, address) => written.push(address),
    ...(options.frequencies && { frequencies: options.frequencies }),
  });
  state.setMessageConnections([1, 4]);
  const faults = (): string[] => {
    const rules: string[] = [];
    state.faults.collect((rule, count) => rules.push(`${rule} x${count}`));
    return rules;
  };
  return { state, memory, timers, rung, written, processor, faults };
}

function identified(options = {}) {
  const made = machine(options);
  made.processor.writeMsr(Msr.guestOsId, 1n << 63n);
  return made;
}

function hex(text: string, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(Uint8Array.from(text.match(/../g)!.map((byte) => Number.parseInt(byte, 16))));
  return bytes;
}

describe("CPUID", () => {
  const { processor } = machine();

  test.each([
    [CpuidLeaf.maximum, [0x4000_0006, 0x7263_694d, 0x666f_736f, 0x7648_2074]],
    [CpuidLeaf.interface, [HYPERVISOR_INTERFACE, 0, 0, 0]],
    [CpuidLeaf.version, [17763, 0x000a_0000, 0, 0]],
    [CpuidLeaf.features, [0x66, 0x30, 0, 0]],
    [CpuidLeaf.recommendations, [0x200, 0xffff_ffff, 0, 0]],
    [CpuidLeaf.limits, [64, 64, 0, 0]],
    [CpuidLeaf.hardwareFeatures, [0, 0, 0, 0]],
    [1, [0, 0, 0x8000_0000, 0]],
    [0x4000_0007, [0, 0, 0, 0]],
  ])("leaf %i", (leaf, registers) => {
    const { eax, ebx, ecx, edx } = processor.cpuid(leaf);
    expect([eax, ebx, ecx, edx]).toEqual(registers);
  });

  test("tells of frequencies where they are known, with their MSRs", () => {
    const known = machine({ frequencies: { tscHz: 2_900_000_000, apicHz: 200_000_000 } }).processor;
    const { eax, ebx, ecx, edx } = known.cpuid(CpuidLeaf.features);
    expect([eax, ebx, ecx, edx]).toEqual([0x866, 0x30, 0, 0x100]);
    expect([known.readMsr(Msr.tscFrequency), known.readMsr(Msr.apicFrequency)]).toEqual([
      2_900_000_000n,
      200_000_000n,
    ]);
    for (const msr of [Msr.tscFrequency, Msr.apicFrequency]) {
      expect(() => processor.readMsr(msr)).toThrow(GeneralProtectionFault);
      expect(() => known.writeMsr(msr, 0n)).toThrow(GeneralProtectionFault);
    }
  });

  test("spells the vendor", () => {
    const { ebx, ecx, edx } = processor.cpuid(CpuidLeaf.maximum);
    expect(new TextDecoder().decode(new Uint32Array([ebx, ecx, edx]))).toBe("Microsoft Hv");
  });
});

describe("synthetic MSRs", () => {
  test("after reset every SINT is masked and all else is off", () => {
    const { processor } = machine();
    for (const msr of [Msr.guestOsId, Msr.hypercall, Msr.scontrol, Msr.siefp, Msr.simp, Msr.eom])
      expect(processor.readMsr(msr)).toBe(0n);
    for (let sint = 0; sint < SINT_COUNT; sint++)
      expect(processor.readMsr(Msr.sint0 + sint)).toBe(0x1_0000n);
    expect(processor.readMsr(Msr.vpIndex)).toBe(1n);
    expect(processor.readMsr(Msr.sversion)).toBe(1n);
  });

  test.each([
    ["GUEST_OS_ID", Msr.guestOsId, 0x8200_0015_5ebb_0000n],
    ["SCONTROL", Msr.scontrol, 1n],
    ["SIEFP", Msr.siefp, 0x5001n],
    ["SIMP", Msr.simp, 0x6001n],
    ["SINT2 with auto-EOI", Msr.sint0 + 2, 0x2_00fcn],
    ["SINT15", Msr.sint0 + 15, 0x30n],
    ["VP_ASSIST_PAGE", Msr.vpAssistPage, 0x7001n],
  ])("%s keeps what is written", (_, msr, value) => {
    const { processor } = machine();
    processor.writeMsr(msr, value);
    expect(processor.readMsr(msr)).toBe(value);
  });

  test("TIME_REF_COUNT counts units of 100 ns", () => {
    const { processor, timers } = machine();
    timers.advance(12.5);
    expect(processor.readMsr(Msr.timeReferenceCount)).toBe(125_000n);
  });

  test.each([
    ["an MSR that does not exist", 0x4000_00ff, 0n, "msr-access"],
    ["SVERSION", Msr.sversion, 1n, "msr-access"],
    ["TIME_REF_COUNT", Msr.timeReferenceCount, 1n, "msr-access"],
    ["VP_INDEX", Msr.vpIndex, 1n, "msr-access"],
    ["SIMP outside memory", Msr.simp, (64n << 12n) | 1n, "msr-value"],
    ["SIEFP beyond 4 GiB", Msr.siefp, (1n << 40n) | 1n, "msr-value"],
    ["a vector of the processor's own", Msr.sint0 + 2, 15n, "msr-value"],
  ])("writing %s faults and is counted", (_, msr, value, rule) => {
    const { processor, faults } = machine();
    expect(() => processor.writeMsr(msr, value)).toThrow(GeneralProtectionFault);
    expect(faults()).toEqual([`${rule} x1`]);
    expect(faults()).toEqual([]);
  });

  test("reading an MSR that does not exist faults with its number", () => {
    const { processor } = machine();
    const read = (): bigint => processor.readMsr(0x4000_0021);
    expect(read).toThrow(GeneralProtectionFault);
    expect(read).toThrow(
      expect.objectContaining({ code: "ERR_GENERAL_PROTECTION", msr: 0x4000_0021 }),
    );
  });

  test("a page is zeroed when it is enabled or moved, not when it is written again", () => {
    const { processor, memory } = machine();
    memory.bytes.fill(0xee, 0x6000, 0x8000);
    processor.writeMsr(Msr.simp, 0x6000n);
    expect(memory.bytes[0x6000]).toBe(0xee);
    processor.writeMsr(Msr.simp, 0x6001n);
    expect(memory.bytes.subarray(0x6000, 0x7000).every((byte) => byte === 0)).toBe(true);
    expect(memory.bytes[0x7000]).toBe(0xee);
    memory.bytes[0x6000] = 0x55;
    processor.writeMsr(Msr.simp, 0x6001n);
    expect(memory.bytes[0x6000]).toBe(0x55);
    processor.writeMsr(Msr.simp, 0x7001n);
    expect(memory.bytes[0x7000]).toBe(0);
  });

  test("the hypercall page is written once the guest has said who it is", () => {
    const { processor, written } = machine();
    processor.writeMsr(Msr.hypercall, 0x3001n);
    expect(processor.readMsr(Msr.hypercall)).toBe(0n);
    processor.writeMsr(Msr.guestOsId, 1n);
    processor.writeMsr(Msr.hypercall, 0x3000n);
    expect(written).toEqual([]);
    processor.writeMsr(Msr.hypercall, 0x3001n);
    expect(written).toEqual([0x3000]);
    processor.writeMsr(Msr.guestOsId, 0n);
    expect(processor.readMsr(Msr.hypercall)).toBe(0n);
  });

  test("EOM is told to the control thread", () => {
    const { processor, state, rung } = machine();
    processor.writeMsr(Msr.eom, 0n);
    expect(rung).toEqual(["control"]);
    expect(state.endOfMessage.take(0)).toBe(0b10);
  });
});

describe("post message", () => {
  const V30 = hex("01000000000000000100000008000000" + "0300000000000000", PostMessageInput.SIZE);

  test("V30 arrives with its connection, type and payload", () => {
    const { processor, memory, state, rung } = identified();
    memory.bytes.set(V30, INPUT);
    expect(processor.hypercall(HypercallCode.postMessage, INPUT, 0)).toBe(HypercallStatus.success);
    expect(rung).toEqual(["control"]);
    expect(state.messages.take()).toEqual({
      vp: 1,
      connectionId: 1,
      type: 1,
      payload: hex("0300000000000000", 8),
    });
    expect(state.messages.take()).toBeUndefined();
  });

  test("an input may end with its page, and its id has 24 bits", () => {
    const { processor, memory, state } = identified();
    const at = INPUT + PAGE_SIZE - PostMessageInput.SIZE;
    memory.bytes.set(V30, at);
    memory.bytes[at + 3] = 0xff;
    expect(processor.hypercall(HypercallCode.postMessage, at, 0)).toBe(0);
    expect(state.messages.take()?.connectionId).toBe(1);
  });

  const { success, invalidParameter } = HypercallStatus;
  test.each([
    ["payload size 240", { 12: 240 }, success],
    ["payload size 241", { 12: 241 }, invalidParameter],
    ["payload size 2^31 and more", { 15: 0x80 }, invalidParameter],
    ["reserved word", { 4: 1 }, invalidParameter],
    ["message type 0", { 8: 0 }, invalidParameter],
    ["a message type of the hypervisor's", { 11: 0x80 }, invalidParameter],
    ["connection 4", { 0: 4 }, success],
    ["connection 0", { 0: 0 }, HypercallStatus.invalidConnectionId],
    ["connection 2", { 0: 2 }, HypercallStatus.invalidConnectionId],
  ] as const)("%s", (_, change, status) => {
    const { processor, memory, state } = identified();
    memory.bytes.set(V30, INPUT);
    for (const [at, value] of Object.entries(change)) memory.bytes[INPUT + Number(at)] = value;
    expect(processor.hypercall(HypercallCode.postMessage, INPUT, 0)).toBe(status);
    expect(state.messages.waiting).toBe(status === success);
  });

  test("connection 4 on a host without protocol 5.0 is no fault of the guest", () => {
    const { processor, memory, state, faults } = identified();
    state.setMessageConnections([1]);
    memory.bytes.set(V30, INPUT);
    memory.bytes[INPUT] = 4;
    expect(processor.hypercall(HypercallCode.postMessage, INPUT, 0)).toBe(18);
    expect(faults()).toEqual([]);
  });

  test("a full queue is said, and takes messages again once the host has read", () => {
    const { processor, memory, state } = identified({ queueEntries: 4 });
    memory.bytes.set(V30, INPUT);
    const post = (): number => processor.hypercall(HypercallCode.postMessage, INPUT, 0);
    expect([post(), post(), post(), post()]).toEqual([0, 0, 0, 0]);
    expect(post()).toBe(HypercallStatus.insufficientBuffers);
    state.messages.take();
    expect(post()).toBe(0);
    expect(post()).toBe(HypercallStatus.insufficientBuffers);
  });

  test("the payload is a private copy", () => {
    const { processor, memory, state } = identified();
    memory.bytes.set(V30, INPUT);
    processor.hypercall(HypercallCode.postMessage, INPUT, 0);
    memory.bytes.fill(0xff, INPUT, INPUT + 256);
    expect(state.messages.take()?.payload[0]).toBe(3);
  });
});

describe("signal event", () => {
  const V32 = hex("0e20000000000000", SignalEventInput.SIZE);

  function withPort() {
    const made = identified();
    made.state.ports.connect(eventConnectionId(14, 2, 0), portOf(1, 14));
    made.memory.bytes.set(V32, INPUT);
    return { ...made, flags: made.state.workerFlags(1) };
  }

  test("V32, slow: sets the flag and rings the worker", () => {
    const { processor, rung, flags } = withPort();
    expect(processor.hypercall(HypercallCode.signalEvent, INPUT, 0)).toBe(0);
    expect(rung).toEqual(["worker 1"]);
    expect(flags.take(0)).toBe(1 << 14);
  });

  test("V32, fast: the same from a register", () => {
    const { processor, rung, flags } = withPort();
    const control = HypercallCode.signalEvent | HYPERCALL_FAST;
    expect(processor.hypercall(control, 0x200e, 0)).toBe(0);
    expect(rung).toEqual(["worker 1"]);
    expect(flags.take(0)).toBe(1 << 14);
  });

  test("a flag that is set already rings nobody", () => {
    const { processor, rung } = withPort();
    for (let times = 0; times < 3; times++)
      processor.hypercall(HypercallCode.signalEvent, INPUT, 0);
    expect(rung).toEqual(["worker 1"]);
  });

  test.each([
    [
      "another connection",
      0x200f,
      0,
      HypercallStatus.invalidConnectionId,
      "signal-event-connection",
    ],
    ["connection 2 without an interrupt page", 2, 0, 18, "signal-event-connection"],
    ["a flag number", 0x200e, 1, HypercallStatus.invalidParameter, "signal-event-input"],
    ["the reserved word", 0x200e, 1 << 16, HypercallStatus.invalidParameter, "signal-event-input"],
  ])("%s", (_, low, high, status, rule) => {
    const { processor, rung, faults } = withPort();
    const control = HypercallCode.signalEvent | HYPERCALL_FAST;
    expect(processor.hypercall(control, low, high)).toBe(status);
    expect(rung).toEqual([]);
    expect(faults()).toEqual([`${rule} x1`]);
  });
});

describe("hypercall input", () => {
  const { postMessage, signalEvent } = HypercallCode;
  const { invalidAlignment, invalidParameter, invalidHypercallInput } = HypercallStatus;
  test.each([
    ["misaligned", postMessage, INPUT + 4, 0, invalidAlignment],
    ["misaligned", signalEvent, INPUT + 1, 0, invalidAlignment],
    ["across a page", postMessage, INPUT + PAGE_SIZE - 248, 0, invalidAlignment],
    ["behind memory", postMessage, 64 * PAGE_SIZE, 0, invalidParameter],
    ["behind memory", signalEvent, 0xffff_fff8, 0, invalidParameter],
    ["beyond 4 GiB", signalEvent, INPUT, 1, invalidParameter],
    ["a fast post", postMessage | HYPERCALL_FAST, INPUT, 0, invalidHypercallInput],
    ["reserved control bits", postMessage | (1 << 17), INPUT, 0, invalidHypercallInput],
    ["reserved control bits", signalEvent | (1 << 31), INPUT, 0, invalidHypercallInput],
    ["an unknown code", 0x5b, INPUT, 0, HypercallStatus.invalidHypercallCode],
    ["code 0", 0, INPUT, 0, HypercallStatus.invalidHypercallCode],
  ])("%s (call %i)", (_, control, low, high, status) => {
    const { processor, faults, rung } = identified();
    expect(processor.hypercall(control, low, high)).toBe(status);
    expect(faults()).toHaveLength(1);
    expect(rung).toEqual([]);
  });

  test("a high half of the control word, which only repetitions use", () => {
    const { processor, faults } = identified();
    expect(processor.hypercall(postMessage, INPUT, 0, 1)).toBe(invalidHypercallInput);
    expect(faults()).toEqual(["hypercall-control x1"]);
  });

  test("before GUEST_OS_ID nothing is accepted", () => {
    const { processor, faults } = machine();
    expect(processor.hypercall(signalEvent, INPUT, 0)).toBe(HypercallStatus.accessDenied);
    expect(faults()).toEqual(["hypercall-without-guest-os-id x1"]);
  });
});

describe("hypervisor state", () => {
  test("another thread that attaches sees the same", () => {
    const state = HypervisorState.create({ vps: 3, workers: 2, shared: true });
    expect(state.buffer).toBeInstanceOf(SharedArrayBuffer);
    const other = new HypervisorState(state.buffer);
    expect([other.vpCount, other.workerCount]).toEqual([3, 2]);
    state.ports.connect(0x2001, portOf(1, 1));
    expect(other.ports.lookup(0x2001)).toBe(portOf(1, 1));
    state.workerFlags(1).set(2047);
    expect(other.workerFlags(1).clear(2047)).toBe(true);
    expect(other.workerFlags(0).clear(2047)).toBe(false);
  });

  test("doorbells do not overlap anything", () => {
    const state = HypervisorState.create({ vps: 2, workers: 2 });
    const bells = [
      state.controlDoorbell,
      ...[0, 1].map((vp) => state.vpDoorbell(vp)),
      ...[0, 1].map((worker) => state.workerDoorbell(worker)),
    ];
    expect(new Set(bells.map((bell) => bell >>> 4)).size).toBe(5);
    for (const bell of bells) {
      expect(bell % 16).toBe(0);
      state.words.fill(-1, bell, bell + 16);
    }
    for (const worker of [0, 1])
      for (let word = 0; word < 64; word++) expect(state.workerFlags(worker).take(word)).toBe(0);
    expect(state.sint(1, 15)).toBe(0x1_0000);
    expect(state.sint(0, 0)).toBe(0x1_0000);
    for (const vp of [0, 1])
      for (let word = 0; word < 8; word++) expect(state.pendingVectors(vp).take(word)).toBe(0);
  });

  test.each([{ vps: 0 }, { vps: 65 }, { workers: 0 }, { queueEntries: 3 }])(
    "refuses %o",
    (options) => {
      expect(() => HypervisorState.create({ vps: 1, workers: 1, ...options })).toThrow(RangeError);
    },
  );

  test("is not made of just any buffer", () => {
    expect(() => new HypervisorState(new ArrayBuffer(4096))).toThrow("not a hypervisor state");
  });
});
