import { beforeEach, describe, expect, test } from "vitest";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  NtStatus,
  SrbPacket,
  VersionPacket,
  VstorOperation,
  emitInquiryCdb,
  emitReportLunsCdb,
  parseReportLuns,
  parseVstorHeader,
} from "@hyperv-is/hv-storvsc/protocol";
import type { Fault } from "@hyperv-is/hyperv-host";
import { DATA, Rig, read, smallDisk, testUnitReady, vstorPacket, write } from "./storvsp-rig.js";

describe("the storage provider", () => {
  let rig: Rig;
  beforeEach(() => {
    rig = new Rig();
  });

  test("answers with packets as long as the requests, at most 64 bytes", () => {
    const sizes = [48, 56, 64, 72].map(
      (size) => rig.control(VstorOperation.endInitialization, size).bytes.byteLength,
    );
    expect(sizes).toEqual([48, 56, 64, 64]);
  });

  test("refuses a request before it is ready, and says that the guest was wrong", () => {
    rig.request(testUnitReady);
    expect(parseVstorHeader(rig.replies[0]!.bytes)!.status).toBe(NtStatus.invalidDeviceState);
    expect(rig.violations).toEqual(["storvsp-operation-state"]);
  });

  test("tells its properties as OpenVMM does", () => {
    rig.control(VstorOperation.beginInitialization);
    rig.control(VstorOperation.queryProtocolVersion, 64, (view) =>
      view.setUint16(VersionPacket.majorMinor, 0x0600, true),
    );
    const { bytes } = rig.control(VstorOperation.queryProperties);
    const view = new DataView(bytes.buffer);
    expect([view.getUint16(16, true), view.getUint32(20, true), view.getUint32(24, true)]).toEqual([
      0, 0, 0x40000,
    ]);
  });

  test("offers sub-channels when a guest asks for them", () => {
    rig = new Rig({ subChannelsMax: 3 });
    rig.initialize();
    const ask = (count: number): number =>
      parseVstorHeader(
        rig.control(VstorOperation.createSubChannels, 64, (view) => view.setUint16(12, count, true))
          .bytes,
      )!.status;
    expect(ask(4)).toBe(NtStatus.invalidParameter);
    expect([ask(3), rig.subChannels]).toEqual([0, 3]);
  });

  describe("requests that wait together", () => {
    /** Has requests wait, and the host work on them; the answers that the guest could see at each one's turn. */
    const seenAtEachTurn = (requests: number): number[] => {
      const disk = smallDisk();
      rig = new Rig({ disks: [disk], ringPages: 3 });
      rig.initialize();
      const seen: number[] = [];
      const { incoming } = rig.pair.left;
      const readSectors = disk.read.bind(disk);
      disk.read = (...transfer) => {
        seen.push(incoming.inspect().readAvailable / 88);
        readSectors(...transfer);
      };
      rig.working = false;
      for (let id = 0; id < requests; id++)
        rig.request(read(id, 1), { length: 512, id, range: [DATA + id * 512, 512] });
      rig.working = true;
      rig.pair.run();
      expect(rig.replies.slice(-requests).map(({ id }) => id)).toEqual(
        Array.from({ length: requests }, (_, id) => id),
      );
      expect(rig.violations).toEqual([]);
      return seen;
    };

    test.each<[number, number[]]>([
      [1, [0]],
      [2, [0, 1]],
      [3, [0, 1, 2]],
      [8, [0, 0, 0, 0, 4, 4, 6, 7]],
    ])("of %i, half are carried out before the first answer is published", (requests, seen) => {
      expect(seenAtEachTurn(requests)).toEqual(seen);
    });

    test("not more than 12 are carried out together", () => {
      const turns = new Map<number, number>();
      for (const answers of seenAtEachTurn(40)) turns.set(answers, (turns.get(answers) ?? 0) + 1);
      expect([...turns]).toEqual([
        [0, 12],
        [12, 12],
        [24, 8],
        [32, 4],
        [36, 2],
        [38, 1],
        [39, 1],
      ]);
    });

    test("those that were taken before a packet that ends the channel are carried out", () => {
      rig.initialize();
      rig.working = false;
      rig.request(testUnitReady, { id: 11 });
      for (const id of [12, 13, 14, 15]) rig.request(testUnitReady, { id, size: 40 });
      rig.working = true;
      rig.request(testUnitReady, { id: 16 });
      expect([rig.replies.at(-1)!.id, rig.closedCode]).toEqual([11, "ERR_STORVSP_REQUEST_SHORT"]);
    });

    test("those that were taken before another operation are carried out before it", () => {
      rig.initialize();
      rig.working = false;
      rig.request(testUnitReady, { id: 1 });
      for (const id of [2, 3]) rig.send(vstorPacket(VstorOperation.resetLun), id);
      rig.working = true;
      rig.send(vstorPacket(VstorOperation.resetLun), 4);
      expect(rig.replies.slice(-4).map(({ id }) => id)).toEqual([1, 2, 3, 4]);
    });
  });

  test("moves data, and forgets what a longer request left in its packet", () => {
    rig.initialize();
    rig.memory.bytes.fill(0x5a, DATA, DATA + 1024);
    rig.request(write(4, 2), { direction: 0, length: 1024 });
    expect([rig.last.srbStatus, rig.last.dataTransferLength]).toEqual([1, 1024]);
    rig.memory.bytes.fill(0, DATA, DATA + 2048);
    rig.request(read(4, 2), { length: 1024, size: 48, id: 8 });
    expect(rig.replies.at(-1)).toMatchObject({ type: PacketType.completion, id: 8 });
    expect(rig.replies.at(-1)!.bytes.byteLength).toBe(48);
    expect([...new Set(rig.memory.copyOut(DATA, 1024))]).toEqual([0x5a]);
    expect(rig.memory.bytes[DATA + 1024]).toBe(0);
    expect(rig.violations).toEqual([]);
  });

  test("tells where it has put data, and nothing of data that it took", () => {
    rig.initialize();
    rig.request(write(4, 2), { direction: 0, length: 1024 });
    expect(rig.written).toEqual([]);
    rig.request(read(4, 2), { length: 1024 });
    expect(rig.written).toEqual([[DATA, 1024]]);
  });

  test("goes on elsewhere with a guest that was ready, and with news that it was not told", () => {
    rig.initialize(0x0402);
    rig.request(testUnitReady);
    const saved = rig.handler.save?.();
    expect(saved).toBeDefined();
    const other = new Rig();
    other.handler.restore?.(structuredClone(saved!.data));
    other.request(testUnitReady);
    expect([other.last.srbStatus, other.violations]).toEqual([1, []]);
    expect(other.controller.version?.value).toBe(0x0402);
  });

  test("cannot be saved while a completion is late", () => {
    rig = new Rig({ faults: [{ kind: "late-completion", delayMs: 5, count: 1 }] });
    rig.initialize();
    rig.request(testUnitReady);
    expect(rig.handler.save?.()).toBeUndefined();
    rig.timers.advance(5);
    rig.pair.run();
    expect(rig.handler.save?.()).toBeDefined();
  });

  test("lists the LUNs that are there, and answers for one that is not", () => {
    rig.initialize();
    const list = (target: Uint8Array, at: number): number => emitReportLunsCdb(target, at, 64);
    rig.request(list, { length: 64, lun: 3 });
    expect(parseReportLuns(rig.memory.copyOut(DATA, 64))!.luns).toEqual([0, 5]);
    rig.request(testUnitReady, { lun: 3 });
    expect([rig.last.srbStatus, rig.last.scsiStatus]).toEqual([0x20, 2]);
    const inquiry = (target: Uint8Array, at: number): number => emitInquiryCdb(target, at, 36);
    rig.request(inquiry, { lun: 3, length: 36 });
    expect([rig.last.srbStatus, rig.memory.bytes[DATA]]).toEqual([1, 0x7f]);
  });

  test("can answer for an absent LUN as a Windows host was reported to", () => {
    rig = new Rig({ absentLun: "windows" });
    rig.initialize();
    const inquiry = (target: Uint8Array, at: number): number => emitInquiryCdb(target, at, 36);
    rig.request(inquiry, { lun: 3, length: 36 });
    expect([rig.last.srbStatus, rig.last.scsiStatus, rig.memory.bytes[DATA]]).toEqual([0x20, 0, 0]);
  });

  test("fails a request whose pages are not guest memory, and the channel lives", () => {
    rig.initialize();
    rig.request(read(0, 1), { length: 512, range: [2 ** 30, 512] });
    expect(rig.last.srbStatus & 0x3f).toBe(6);
    expect(rig.violations).toEqual(["storvsp-range-outside-memory"]);
    rig.request(testUnitReady);
    expect(rig.last.srbStatus).toBe(1);
  });

  const stops: [string, string, (rig: Rig) => void][] = [
    [
      "an unknown operation",
      "ERR_STORVSP_OPERATION_UNKNOWN",
      (it) => it.send(Uint8Array.of(2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
    ],
    [
      "no completion wanted",
      "ERR_STORVSP_NO_COMPLETION_REQUESTED",
      (it) => it.send(new Uint8Array(64), 1, undefined, 0),
    ],
    ["a packet without a header", "ERR_STORVSP_PACKET_SHORT", (it) => it.send(new Uint8Array(8))],
    [
      "a completion",
      "ERR_STORVSP_PACKET_TYPE",
      (it) => it.send(new Uint8Array(64), 1, undefined, 1, PacketType.completion),
    ],
    [
      "a range shorter than the data",
      "ERR_STORVSP_RANGES",
      (it) => it.request(read(0, 2), { length: 1024, range: [DATA, 512] }),
    ],
    [
      "data without a range",
      "ERR_STORVSP_RANGES",
      (it) =>
        it.request((target, at) => {
          new DataView(target.buffer).setUint32(SrbPacket.dataTransferLength, 512, true);
          return read(0, 1)(target, at);
        }),
    ],
  ];
  test.each(stops)("stops for good at %s", (_name, code, act) => {
    rig.initialize();
    const before = rig.replies.length;
    act(rig);
    expect(rig.closedCode).toBe(code);
    expect(rig.replies.length).toBe(before);
  });

  test("lets requests on a sub-channel wait until the primary is ready", () => {
    rig = new Rig({ subChannelsMax: 1, sub: true });
    rig.request(testUnitReady);
    expect(rig.replies).toEqual([]);
    rig.controller.initialization = { name: "ready", version: { ...versionOf(0x0600) } };
    rig.pair.run();
    expect(rig.last.srbStatus).toBe(1);
  });

  test("keeps completions while the ring is full, and loses none", () => {
    rig.initialize();
    rig.reading = false;
    const first = rig.replies.length;
    // The guest sends without reading: 4072 bytes of ring hold 46 completions of 88 bytes.
    for (let id = 100; id < 200; id++) rig.request(testUnitReady, { id });
    expect(rig.controller.counters.completionsDelayed).toBeGreaterThan(0);
    rig.reading = true;
    rig.pair.left.interrupt();
    for (let round = 0; round < 20; round++) {
      rig.pair.left.poll(1000);
      rig.timers.advance(5);
      rig.pair.run();
    }
    expect(rig.replies.slice(first).map(({ id }) => id)).toEqual(
      Array.from({ length: 100 }, (_, index) => 100 + index),
    );
  });

  test("tells once that its LUNs changed, and not before the guest is ready", () => {
    rig.controller.detach({ path: 0, target: 0, lun: 5 });
    rig.initialize();
    const before = rig.replies.length;
    rig.controller.detach({ path: 0, target: 0, lun: 0 });
    rig.pair.run();
    expect(rig.replies.slice(before).map(({ type, id }) => [type, id])).toEqual([
      [PacketType.inBand, 0],
    ]);
    expect(parseVstorHeader(rig.replies.at(-1)!.bytes)!.operation).toBe(
      VstorOperation.enumerateBus,
    );
  });
});

const versionOf = (value: number) => ({
  name: "test",
  value,
  packetBytes: 64,
  requestBytes: 52,
  senseBytes: 20,
  multiChannel: true,
  enumerateBus: true,
});

describe("faults of the storage provider", () => {
  const rigWith = (fault: Fault): Rig => {
    const rig = new Rig({ faults: [fault] });
    rig.initialize();
    rig.memory.bytes.fill(0x77, DATA, DATA + 2048);
    return rig;
  };
  const ids = (rig: Rig): number[] => rig.replies.slice(4).map(({ id }) => id);

  test("late", () => {
    const rig = rigWith({ kind: "late-completion", nth: 1, delayMs: 10 });
    rig.request(testUnitReady, { id: 7 });
    rig.request(testUnitReady, { id: 8 });
    expect(ids(rig)).toEqual([8]);
    rig.timers.advance(10);
    rig.pair.run();
    expect(ids(rig)).toEqual([8, 7]);
    expect(rig.last.srbStatus).toBe(1);
  });

  test("lost", () => {
    const rig = rigWith({ kind: "lost-completion", nth: 1 });
    rig.request(testUnitReady, { id: 7 });
    rig.request(testUnitReady, { id: 8 });
    expect(ids(rig)).toEqual([8]);
  });

  test("duplicate", () => {
    const rig = rigWith({ kind: "duplicate-completion", nth: 1 });
    rig.request(testUnitReady, { id: 7 });
    expect(ids(rig)).toEqual([7, 7]);
  });

  test("check condition, with the sense data asked for, and nothing written", () => {
    const rig = rigWith({
      kind: "check-condition",
      operation: "write",
      senseKey: 3,
      additionalCode: 0x11,
      additionalQualifier: 4,
    });
    rig.request(write(0, 1), { direction: 0, length: 512 });
    expect(rig.last).toMatchObject({ srbStatus: 0x84, scsiStatus: 2, dataTransferLength: 0 });
    expect([rig.last.sense[2], rig.last.sense[12], rig.last.sense[13]]).toEqual([3, 0x11, 4]);
    rig.request(read(0, 1), { length: 512 });
    expect(rig.memory.bytes[DATA]).toBe(0);
  });

  test("short: moves whole sectors up to the limit, and says so", () => {
    const rig = rigWith({ kind: "short-transfer", operation: "write", bytes: 700 });
    rig.request(write(0, 2), { direction: 0, length: 1024 });
    expect(rig.last).toMatchObject({ srbStatus: 1, dataTransferLength: 512 });
    rig.request(read(0, 2), { length: 1024 });
    expect([rig.memory.bytes[DATA], rig.memory.bytes[DATA + 512]]).toEqual([0x77, 0]);
  });

  test("rescind", () => {
    const rig = rigWith({ kind: "rescind", operation: "test-unit-ready", nth: 2 });
    rig.request(testUnitReady);
    expect(rig.rescinded).toBe(0);
    rig.request(testUnitReady);
    expect(rig.rescinded).toBe(1);
  });
});

test("a closed primary channel starts the controller anew", () => {
  const rig = new Rig();
  rig.initialize();
  rig.pair.right.close();
  expect(rig.controller.initialization.name).toBe("begin");
});
