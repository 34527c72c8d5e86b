import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as protocol from "../src/protocol/index.js";

/** The wire bytes of every class as Linux's headers have them. */
const classBytes: Readonly<Record<keyof typeof protocol.DeviceClass, string>> = {
  network: "63 51 61 f8 3e df c5 46 91 3f f2 d2 f9 65 ed 0e",
  scsi: "d9 63 61 ba a1 04 29 4d b6 05 72 e2 ff b1 dc 7f",
  ide: "32 26 41 32 cb 86 a2 44 9b 5c 50 d1 41 73 54 f5",
  fibreChannel: "4a cc 9b 2f 69 00 f3 4a b7 6b 6f d0 be 52 8c da",
  networkDirect: "3d af 2e 8c a7 32 09 4b ab 99 bd 1f 1c 86 b5 01",
  pci: "1d f6 c4 44 44 44 00 44 9d 52 80 2e 27 ed e1 9f",
  video: "02 78 0a da 77 e3 ac 4a 8e 77 05 58 eb 10 73 f8",
  keyboard: "6d ad 12 f9 17 2b ea 48 bd 65 f9 27 a6 1c 76 84",
  mouse: "9e b6 a8 cf 4a 5b c0 4c b9 8b 8b a1 a1 f3 f9 5a",
  kvp: "e7 f4 a0 a9 45 5a 96 4d b8 27 8a 84 1e 8c 03 e6",
  vss: "29 2e fa 35 23 ea 36 42 96 ae 3a 6e ba cb a4 40",
  heartbeat: "39 4f 16 57 15 91 78 4e ab 55 38 2f 3b d5 42 2d",
  shutdown: "31 60 0b 0e 13 52 34 49 81 8b 38 d9 0c ed 39 db",
  timeSync: "30 e6 27 95 ae d0 7b 49 ad ce e8 0a b0 17 5c af",
  fileCopy: "e3 4b d1 34 e4 de c8 41 9a e7 6b 17 49 77 c1 92",
  dynamicMemory: "dc 74 50 52 85 89 e2 46 80 57 a3 07 dc 18 a5 02",
  activation: "16 57 e6 f8 b3 3c 06 4a 9a 60 18 89 c5 cc ca b5",
  inheritedActivation: "f4 ba 75 33 15 9e 30 4b b7 65 67 ac b1 0d 60 7b",
  remoteDesktop: "f4 ac 6a 27 15 ac 6c 42 98 dd 75 21 ad 3f 01 fe",
  machineConfiguration: "c3 c1 76 c3 76 d2 d2 48 90 a9 c0 47 48 07 2c 60",
};

describe("device classes", () => {
  test.each(Object.entries(protocol.DeviceClass))("%s has its bytes", (key, row) => {
    const text = classBytes[key as keyof typeof protocol.DeviceClass];
    const bytes = new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
    expect(protocol.readGuid(bytes)).toBe(row.classId);
    const written = new Uint8Array(16);
    protocol.writeGuid(written, 0, row.classId);
    expect(written).toEqual(bytes);
    expect(protocol.deviceClassOf(row.classId)).toBe(row);
  });

  test("are twenty, all ids different and in the form that records hold", () => {
    expect(protocol.deviceClasses).toHaveLength(20);
    const ids = protocol.deviceClasses.flatMap((row) => [row.classId, ...row.instanceIds]);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(protocol.parseGuid(id)).toBe(id);
    expect(protocol.deviceClassOf(protocol.NIL_GUID)).toBeUndefined();
  });

  test("with interrupts on all processors are storage and network", () => {
    const names = Object.entries(protocol.DeviceClass).filter(([, row]) => row.performance);
    expect(names.map(([key]) => key)).toEqual([
      "network",
      "scsi",
      "ide",
      "fibreChannel",
      "networkDirect",
    ]);
  });

  test("that every virtual machine has are thirteen", () => {
    const fixed = protocol.deviceClasses.filter(
      (row) => row.instanceIds.length > 0 && row.classId !== protocol.DeviceClass.ide.classId,
    );
    expect(fixed).toHaveLength(13);
  });
});

describe("GUIDs", () => {
  const bytes = fc.uint8Array({ minLength: 16, maxLength: 16 });

  test("travel through text unchanged", () => {
    fc.assert(
      fc.property(bytes, fc.nat({ max: 9 }), (wire, at) => {
        const text = protocol.readGuid(wire);
        expect(text).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
        const memory = new Uint8Array(32).fill(0xee);
        protocol.writeGuid(memory, at, text);
        expect(memory.slice(at, at + 16)).toEqual(wire);
        expect(memory.subarray(0, at).every((byte) => byte === 0xee)).toBe(true);
        expect(memory.subarray(at + 16).every((byte) => byte === 0xee)).toBe(true);
        expect(protocol.readGuid(memory, at)).toBe(text);
        expect(protocol.parseGuid(text.toUpperCase())).toBe(text);
        expect(protocol.parseGuid(`{${text}}`)).toBe(text);
      }),
    );
  });

  test("have the first three groups little-endian, the others in order", () => {
    const wire = Uint8Array.from({ length: 16 }, (_, index) => index);
    expect(protocol.readGuid(wire)).toBe("03020100-0504-0706-0809-0a0b0c0d0e0f");
  });

  test.each([
    "",
    "f8615163",
    "f8615163-df3e-46c5-913f-f2d2f965ed0",
    "f8615163-df3e-46c5-913f-f2d2f965ed0ee",
    "f8615163df3e46c5913ff2d2f965ed0e",
    "g8615163-df3e-46c5-913f-f2d2f965ed0e",
    "f8615163-dfxe-46c5-913f-f2d2f965ed0e",
    "f8615163-df3e-46c5-913f-f2d2f965xd0e",
    " f8615163-df3e-46c5-913f-f2d2f965ed0e",
    "f8615163-df3e-46c5-913f-f2d2f965ed0e\n",
    "{f8615163-df3e-46c5-913f-f2d2f965ed0e",
    "f8615163-df3e-46c5-913f-f2d2f965ed0e}",
  ])("are not %j", (text) => {
    expect(protocol.parseGuid(text)).toBeUndefined();
  });

  test("stand for ports of hvsock", () => {
    expect(protocol.hvsockServiceId(0x400)).toBe("00000400-facb-11e6-bd58-64006a7986d3");
    expect(protocol.hvsockServiceId(0xffff_ffff)).toBe("ffffffff-facb-11e6-bd58-64006a7986d3");
  });
});

describe("numbers", () => {
  /** As the kernels' headers and OpenVMM's definitions have them. */
  test.each([
    [protocol.ConnectionId, [1, 2, 3, 4, 0x80_0074]],
    [protocol.HypercallCode, [0x5c, 0x5d]],
    [protocol.HypercallStatus, [0, 2, 3, 4, 5, 6, 11, 17, 18, 19, 24]],
    [protocol.SynicMessageType, [0, 1, 0x8000_0010]],
    [protocol.ConnectionState, [0, 1, 2]],
    [protocol.Feature, [0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80]],
    [protocol.OfferFlag, [0x1, 0x2, 0x4, 0x8, 0x10, 0x100, 0x200, 0x400, 0x2000]],
    [protocol.PipeType, [0, 4]],
    [protocol.PipePacketType, [1, 2, 3, 4]],
    [protocol.PacketType, [6, 7, 9, 11]],
    [protocol.NtStatus, [0, 0x8000_ffff, 0xc000_0236]],
    [protocol.InterruptPage, [0, 2048, 2048, 256]],
    [protocol.HypervisorPrivilege, [0x10, 0x20]],
    [protocol.HypervisorAdvice, [0x200]],
    [protocol.CpuidLeaf, [0, 1, 2, 3, 4, 5, 6].map((leaf) => 0x4000_0000 + leaf)],
    [
      protocol.Msr,
      [0x00, 0x01, 0x02, 0x20, 0x22, 0x23, 0x73, 0x80, 0x81, 0x82, 0x83, 0x84, 0x90].map(
        (msr) => 0x4000_0000 + msr,
      ),
    ],
    [protocol.Sint, [0xffn, 0x1_0000n, 0x2_0000n, 0x4_0000n, 0x1_0000n]],
  ])("%o", (table, values) => {
    expect(Object.values<number | bigint>(table)).toEqual(values);
  });

  test.each([
    ["HYPERCALL_FAST", 0x1_0000],
    ["HYPERCALL_CODE_MASK", 0xffff],
    ["HYPERCALL_INPUT_ALIGNMENT", 8],
    ["CONNECTION_ID_MASK", 0xff_ffff],
    ["MESSAGE_PAYLOAD_MAX", 240],
    ["MESSAGE_PENDING", 1],
    ["SINT_COUNT", 16],
    ["VMBUS_SINT", 2],
    ["TIMER_SINT", 4],
    ["SYNIC_VERSION", 1],
    ["MONITOR_COUNT", 128],
    ["MONITOR_NONE", 255],
    ["INTERRUPT_PAGE_FLAG", 0],
    ["FEATURE_PENDING_SEND_SIZE", 1],
    ["PACKET_FLAG_COMPLETION_REQUESTED", 1],
    ["PACKET_MAX_BYTES", 524_280],
    ["PIPE_PAYLOAD_MAX", 16_384],
    ["PIPE_FLAG_GPA_DIRECT", 1],
    ["FIRST_GPADL_ID", 0xe1e10],
    ["GPADL_HEADER_DATA_MAX", 27 * 8],
    ["GPADL_BODY_DATA_MAX", 28 * 8],
    ["USER_DATA_SIZE", 120],
    ["VP_INTERRUPTS_DISABLED", 0xffff_ffff],
    ["PAGE_SIZE", 4096],
    ["HYPERVISOR_INTERFACE", Buffer.from("Hv#1").readUInt32LE()],
    ["CPUID_1_ECX_HYPERVISOR", 2 ** 31],
  ] as const)("%s", (name, value) => {
    expect(protocol[name]).toBe(value);
  });

  test("the features that FreeBSD prints as VPRUNTIME to TMFREQ are bits 0 to 11", () => {
    expect(Object.values(protocol.HypervisorFeature)).toEqual(
      Array.from({ length: 12 }, (_, bit) => 2 ** bit),
    );
    // What a guest of the PC emulator was seen to print for 0x66.
    const { referenceCounter, synic, hypercall, vpIndex } = protocol.HypervisorFeature;
    expect(referenceCounter | synic | hypercall | vpIndex).toBe(0x66);
  });

  test("the names of guests in GUEST_OS_ID", () => {
    const { openSource, typeShift, freebsd, linux } = protocol.GuestOsId;
    expect((openSource | (freebsd << typeShift)) >> 56n).toBe(0x82n);
    expect((openSource | (linux << typeShift)) >> 56n).toBe(0x81n);
  });

  test("the vendor's name", () => {
    const name = Buffer.alloc(12);
    protocol.HYPERVISOR_VENDOR.forEach((word, index) => name.writeUInt32LE(word, index * 4));
    expect(name.toString("latin1")).toBe("Microsoft Hv");
  });

  test("a page MSR is an enable bit and an address", () => {
    expect(protocol.MSR_ENABLE).toBe(1n);
    expect(0xdead_bfffn & protocol.MSR_PAGE_MASK).toBe(0xdead_b000n);
    expect(protocol.MSR_PAGE_MASK >> 63n).toBe(1n);
  });

  test("the host's way of making connection ids", () => {
    expect(protocol.eventConnectionId(14, protocol.VMBUS_SINT, 0)).toBe(0x200e);
    expect(protocol.eventConnectionId(2047, 2, 2)).toBe(0x2_27ff);
  });

  test.each([
    [protocol.NtStatus.success, true],
    [0x4000_0000, true],
    [protocol.NtStatus.unsuccessful, false],
    [protocol.NtStatus.connectionRefused, false],
  ])("status %i is a success: %s", (status, success) => {
    expect(protocol.isNtSuccess(status)).toBe(success);
  });
});
