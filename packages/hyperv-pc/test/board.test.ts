import { describe, expect, test } from "vitest";
import type { DeviceOffer, Partition } from "@hyperv-is/hyperv-host";
import { code, instruction, interruptVector } from "./assembler.js";
import { LittlePc, runLittlePc } from "./little-pc.js";

const {
  call,
  cpuid,
  enableInterrupts,
  idle,
  increment,
  interruptReturn,
  load,
  mark,
  move,
  out,
  powerOff,
  rdmsr,
  readDevice,
  readMsr,
  reset,
  skipFaulting,
  store,
  storeValue,
  writeDevice,
  writeMsr,
} = instruction;

/** Where programs leave what they find. */
const RESULT = 0x1000;
const STARTED = 0x1100;
const HANDLER = 0x1800;
const INPUT = 0x2000;
const HYPERCALL_PAGE = 0x3000;
const MESSAGE_PAGE = 0x4000;
const EVENT_PAGE = 0x5000;
const VECTOR = 0xfc;

const Msr = {
  guestOsId: 0x4000_0000,
  hypercall: 0x4000_0001,
  vpIndex: 0x4000_0002,
  timeReferenceCount: 0x4000_0020,
  scontrol: 0x4000_0080,
  siefp: 0x4000_0082,
  simp: 0x4000_0083,
  eom: 0x4000_0084,
  sint2: 0x4000_0092,
} as const;

const HYPERCALL_PORT = 0x9e;
const POST_MESSAGE = 0x5c;
const AUTO_EOI = 1 << 17;
/** Of SINT 2, with its type first and its payload 16 bytes later. */
const SLOT = MESSAGE_PAGE + 2 * 256;

/** Says who the guest is, so that it may make hypercalls. */
const identify = writeMsr(Msr.guestOsId, 0x1234, 0x8200_0000);

/** A posted message: INITIATE_CONTACT for a version, on connection 1. */
function contact(version: number): { readonly address: number; readonly bytes: Uint8Array } {
  const bytes = new Uint8Array(256);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 1, true);
  view.setUint32(8, 1, true);
  view.setUint32(12, 40, true);
  view.setUint32(16, 14, true);
  view.setUint32(24, version, true);
  return { address: INPUT, bytes };
}

/** Sets the registers to post the message at an address. */
const postAt = (address: number): number[] => [
  ...move("eax", POST_MESSAGE),
  ...move("edx", 0),
  ...move("ecx", address),
  ...move("ebx", 0),
];
const post = postAt(INPUT);

/** Switches the SynIC on, with SINT 2 at `VECTOR`. */
const synic = (flags: number): number[] => [
  ...writeMsr(Msr.simp, MESSAGE_PAGE | 1),
  ...writeMsr(Msr.siefp, EVENT_PAGE | 1),
  ...writeMsr(Msr.sint2, VECTOR | flags),
  ...writeMsr(Msr.scontrol, 1),
];

describe("instructions of a guest", () => {
  test("CPUID tells of the hypervisor, and leaves the rest to the processor", async () => {
    const run = await runLittlePc({
      program: code(
        move("eax", 0x4000_0000),
        cpuid,
        store(RESULT, "eax"),
        store(RESULT + 4, "ebx"),
        store(RESULT + 8, "ecx"),
        store(RESULT + 12, "edx"),
        move("eax", 1),
        cpuid,
        store(RESULT + 16, "ecx"),
        store(RESULT + 20, "edx"),
        move("eax", 0),
        cpuid,
        store(RESULT + 24, "ebx"),
        powerOff,
      ),
    });
    expect(run.end).toBe("powered-off");
    expect(run.word(RESULT)).toBe(0x4000_0006);
    const vendor = new Int32Array([4, 8, 12].map((offset) => run.word(RESULT + offset)));
    expect(new TextDecoder().decode(vendor)).toBe("Microsoft Hv");
    expect(run.word(RESULT + 16) >>> 31).toBe(1);
    // Its own features (a local APIC among them) and its own vendor are still there.
    expect((run.word(RESULT + 20) >>> 9) & 1).toBe(1);
    expect(run.word(RESULT + 24)).not.toBe(0);
  });

  test("MSRs are read and written, and time goes on", async () => {
    const run = await runLittlePc({
      program: code(
        identify,
        readMsr(Msr.guestOsId),
        store(RESULT, "eax"),
        store(RESULT + 4, "edx"),
        move("eax", -1),
        readMsr(Msr.vpIndex),
        store(RESULT + 8, "eax"),
        readMsr(Msr.timeReferenceCount),
        store(RESULT + 12, "eax"),
        readMsr(0x10),
        store(RESULT + 16, "eax"),
        powerOff,
      ),
    });
    expect([run.word(RESULT), run.word(RESULT + 4) >>> 0]).toEqual([0x1234, 0x8200_0000]);
    expect(run.word(RESULT + 8)).toBe(0);
    expect(run.word(RESULT + 12)).not.toBe(0);
    // The processor's own time-stamp counter is not ours.
    expect(run.word(RESULT + 16)).not.toBe(0);
    expect(run.partition.violations.list).toEqual([]);
  });

  test("an MSR that does not exist is a general-protection fault in the guest", async () => {
    const handler = code(increment(RESULT), skipFaulting, interruptReturn);
    const run = await runLittlePc({
      placed: [interruptVector(13, HANDLER), { address: HANDLER, bytes: handler }],
      program: code(
        move("ecx", 0x4000_00f0),
        rdmsr,
        // SINT 2 unmasked with vector 5, which is an exception's.
        writeMsr(Msr.sint2, 5),
        powerOff,
      ),
    });
    expect(run.word(RESULT)).toBe(2);
    expect(run.partition.violations.counts()).toEqual({ "msr-access": 1, "msr-value": 1 });
  });

  test("the hypercall page holds code that makes hypercalls", async () => {
    const stub = code([0xe8, ...[0, 0]], [0xcb]);
    const STUB = HYPERCALL_PAGE - 3;
    const run = await runLittlePc({
      placed: [contact(0x50003), { address: STUB - 1, bytes: stub }],
      program: code(
        identify,
        writeMsr(Msr.hypercall, HYPERCALL_PAGE | 1),
        storeValue(STUB - 1, 0xcb00_01e8 | 0),
        post,
        call(STUB - 1),
        store(RESULT, "eax"),
        powerOff,
      ),
    });
    const page = run.partition.memory.copyOut(HYPERCALL_PAGE, 3);
    expect(Array.from(page)).toEqual([0xe6, HYPERCALL_PORT, 0xc3]);
    expect(run.word(RESULT)).toBe(0);
    expect(run.partition.server.stats().messagesIn).toBe(1);
  });

  test("a hypercall without an identity is refused, and one with high control bits", async () => {
    const run = await runLittlePc({
      placed: [contact(0x50003)],
      program: code(
        post,
        out(HYPERCALL_PORT),
        store(RESULT, "eax"),
        identify,
        post,
        move("edx", 1),
        out(HYPERCALL_PORT),
        store(RESULT + 4, "eax"),
        powerOff,
      ),
    });
    expect([run.word(RESULT), run.word(RESULT + 4)]).toEqual([6, 3]);
  });
});

describe("interrupts of the host", () => {
  /**
   * Counts itself, empties the slot, says so, and asks for the next message until there were two: then the
   * machine is switched off. No end-of-interrupt: real mode does not reach the local APIC.
   */
  const handler = code(
    increment(RESULT),
    load("eax", SLOT + 16),
    store(RESULT + 4, "eax"),
    storeValue(SLOT, 0),
    writeMsr(Msr.eom, 0),
    load("eax", RESULT),
    [0x3c, 2], // cmp al, 2
    [0x72, powerOff.length], // jb behind it
    powerOff,
    post,
    out(HYPERCALL_PORT),
    interruptReturn,
  );
  const placed = [
    contact(0x50003),
    interruptVector(VECTOR, HANDLER),
    { address: HANDLER, bytes: handler },
  ];

  test("reach a halted guest, and with auto-EOI again and again", async () => {
    const run = await runLittlePc({
      placed,
      program: code(
        [0xbc, 0x00, 0x70], // mov sp, 0x7000
        identify,
        synic(AUTO_EOI),
        post,
        out(HYPERCALL_PORT),
        enableInterrupts,
        idle,
      ),
    });
    expect(run.end).toBe("powered-off");
    // VERSION_RESPONSE, twice.
    expect([run.word(RESULT), run.word(RESULT + 4)]).toEqual([2, 15]);
    expect(run.partition.violations.list).toEqual([]);
  });

  test("stay in service without auto-EOI until the guest ends them", async () => {
    // After its first interrupt this guest waits for the message in its slot, and looks whether the second comes.
    const waiting = code(
      increment(RESULT),
      storeValue(SLOT, 0),
      writeMsr(Msr.eom, 0),
      post,
      out(HYPERCALL_PORT),
      interruptReturn,
    );
    const run = await runLittlePc({
      placed: [
        contact(0x50003),
        interruptVector(VECTOR, HANDLER),
        { address: HANDLER, bytes: waiting },
      ],
      program: code(
        [0xbc, 0x00, 0x70],
        identify,
        synic(0),
        post,
        out(HYPERCALL_PORT),
        enableInterrupts,
        // Until the first interrupt was taken, and the second message is there:
        [0xa1, ...[RESULT & 0xff, RESULT >> 8], 0x3c, 1, 0x75, 0xf9], // mov ax, [RESULT]; cmp al, 1; jne
        [0xa1, ...[SLOT & 0xff, SLOT >> 8], 0x3c, 1, 0x75, 0xf9],
        powerOff,
      ),
    });
    expect([run.word(RESULT), run.word(SLOT)]).toEqual([1, 1]);
  });
});

const device: DeviceOffer = {
  classId: "57164f39-9115-4e78-ab55-382f3bd5422d",
  instanceId: "fd149e91-82e0-4a7d-afa6-2a4166cbd7c0",
  flags: 0,
  worker: 0,
};

describe("a saved guest", () => {
  /** REQUESTOFFERS. */
  const REQUEST = INPUT + 0x100;
  const request = new Uint8Array(256);
  new DataView(request.buffer).setUint32(0, 1, true);
  new DataView(request.buffer).setUint32(8, 1, true);
  new DataView(request.buffer).setUint32(12, 8, true);
  new DataView(request.buffer).setUint32(16, 3, true);

  /** Asks for offers after the first message, tells when it has them (two more), and ends at the fourth. */
  const when = (count: number, then: readonly number[]): number[] => [
    ...load("eax", RESULT),
    ...[0x3c, count], // cmp al, count
    ...[0x75, then.length], // jne behind
    ...then,
  ];
  const handler = code(
    increment(RESULT),
    storeValue(SLOT, 0),
    writeMsr(Msr.eom, 0),
    when(1, [...postAt(REQUEST), ...out(HYPERCALL_PORT)]),
    when(3, mark),
    when(4, powerOff),
    interruptReturn,
  );
  const options = {
    placed: [
      contact(0x50003),
      { address: REQUEST, bytes: request },
      interruptVector(VECTOR, HANDLER),
      { address: HANDLER, bytes: handler },
    ],
    built: (partition: Partition) => partition.offer(device),
    program: code(
      [0xbc, 0x00, 0x70], // mov sp, 0x7000
      identify,
      synic(AUTO_EOI),
      post,
      out(HYPERCALL_PORT),
      enableInterrupts,
      idle,
    ),
  };

  test("goes on in another emulator, on another host, with its connection", async () => {
    await using before = await LittlePc.start(options);
    await before.marked();
    const saved = await before.save();
    expect(saved).toBeDefined();
    await using after = await LittlePc.start(options, structuredClone(saved!));
    const { partition } = after;
    expect(partition.server.stats()).toEqual(before.partition.server.stats());
    expect([partition.memory.words[RESULT >>> 2], partition.stats().version]).toEqual([3, "5.3"]);
    // The host speaks first, to a guest that is halted.
    expect(partition.rescind(device.instanceId)).toBe(true);
    const run = await after.ended();
    expect([run.end, run.word(RESULT), run.resets]).toEqual(["powered-off", 4, 0]);
    expect(partition.violations.list).toEqual([]);
  });

  test("keeps an interrupt that it has not taken, with its auto-EOI", async () => {
    const deaf = {
      ...options,
      program: code(
        [0xbc, 0x00, 0x70],
        identify,
        synic(AUTO_EOI),
        post,
        out(HYPERCALL_PORT),
        // Waits for the message, interrupts off; then tells, and waits until somebody sets STARTED.
        [0xa1, SLOT & 0xff, SLOT >> 8, 0x3c, 1, 0x75, 0xf9],
        mark,
        [0xa1, STARTED & 0xff, STARTED >> 8, 0x3c, 1, 0x75, 0xf9],
        enableInterrupts,
        idle,
      ),
    };
    await using before = await LittlePc.start(deaf);
    await before.marked();
    await using after = await LittlePc.start(deaf, await before.save());
    after.partition.memory.words[STARTED >>> 2] = 1;
    // Three messages come only if none of their interrupts stays in service.
    await after.marked();
    expect(after.partition.memory.words[RESULT >>> 2]).toBe(3);
  });
});

test("a saved guest has no input that it had not read", async () => {
  const LINE_STATUS = 0x3fd;
  const waiting = {
    program: code(
      mark,
      // Waits until somebody sets STARTED, then stores the line status: bit 0 says that there is input.
      [0xa1, STARTED & 0xff, STARTED >> 8, 0x3c, 1, 0x75, 0xf9],
      [0xba, LINE_STATUS & 0xff, LINE_STATUS >> 8, 0xec, 0xa2, RESULT & 0xff, RESULT >> 8],
      powerOff,
    ),
  };
  const statusOf = async (pc: LittlePc): Promise<number> => {
    pc.partition.memory.words[STARTED >>> 2] = 1;
    return (await pc.ended()).word(RESULT) & 1;
  };
  await using before = await LittlePc.start(waiting);
  await before.marked();
  before.type(0x61);
  const saved = await before.save();
  await using after = await LittlePc.start(waiting, saved);
  expect(await statusOf(after)).toBe(0);
  await using typedAt = await LittlePc.start(waiting, saved);
  typedAt.type(0x62);
  expect(await statusOf(typedAt)).toBe(1);
});

describe("the end of a guest", () => {
  test("a halt with interrupts off is one", async () => {
    const run = await runLittlePc({ program: code(idle) });
    expect(run.end).toBe("halted");
  });

  test("a restart takes the guest's registers and its connection back", async () => {
    const run = await runLittlePc({
      placed: [contact(0x50003)],
      built: (partition) => partition.offer(device),
      program: code(
        readMsr(Msr.guestOsId),
        store(RESULT, "eax"),
        readMsr(Msr.sint2),
        store(RESULT + 4, "eax"),
        // The first time round there is nothing here, and nobody clears memory.
        load("eax", STARTED),
        [0x3c, 1], // cmp al, 1
        [0x75, powerOff.length], // jne behind it
        powerOff,
        identify,
        synic(0),
        post,
        out(HYPERCALL_PORT),
        increment(STARTED),
        // The host takes the message while the guest waits for the answer in its slot.
        [0xa1, SLOT & 0xff, SLOT >> 8, 0x3c, 1, 0x75, 0xf9], // mov ax, [SLOT]; cmp al, 1; jne
        reset,
        idle,
      ),
    });
    expect([run.end, run.resets]).toEqual(["powered-off", 1]);
    expect([run.word(RESULT), run.word(RESULT + 4)]).toEqual([0, 0x1_0000]);
    const { state, messagesIn } = run.partition.server.stats();
    expect([state, messagesIn]).toEqual(["disconnected", 1]);
    expect(run.partition.server.offers).toEqual([device]);
  });

  test("a restart finds the interrupt controllers as they were at first", async () => {
    const local = (register: number): number => 0xfee0_0000 + register;
    const IO_SELECT = 0xfec0_0000;
    const IO_WINDOW = 0xfec0_0010;
    /** Of the line 5. */
    const ENTRY = 0x1a;
    const TIMER = 0x320;
    const ICR = 0x300;
    const SELF = 0x4_0000;
    /** In-service bits of the vectors from 0xe0 on, and requests of those from 0xc0 on. */
    const registers = [TIMER, 0x170, 0x260];
    const run = await runLittlePc({
      placed: [
        interruptVector(0xe0, HANDLER),
        // The first vector stays in service for ever, and the second waits for it.
        { address: HANDLER, bytes: code(increment(STARTED), reset, idle) },
      ],
      program: code(
        [0xbc, 0x00, 0x70], // mov sp, 0x7000
        registers.flatMap((register, index) => [
          ...readDevice(local(register)),
          ...store(RESULT + 4 * index, "eax"),
        ]),
        writeDevice(IO_SELECT, ENTRY),
        readDevice(IO_WINDOW),
        store(RESULT + 4 * registers.length, "eax"),
        load("eax", STARTED),
        [0x3c, 1], // cmp al, 1
        [0x75, powerOff.length], // jne behind it
        powerOff,
        writeDevice(local(TIMER), 0xef),
        writeDevice(IO_WINDOW, 0x35),
        writeDevice(local(ICR), SELF | 0xd0),
        writeDevice(local(ICR), SELF | 0xe0),
        enableInterrupts,
        idle,
      ),
    });
    expect([run.end, run.resets]).toEqual(["powered-off", 1]);
    expect([0, 4, 8, 12].map((offset) => run.word(RESULT + offset))).toEqual([
      ...[0x1_0000, 0, 0],
      0x1_0000,
    ]);
  });
});
