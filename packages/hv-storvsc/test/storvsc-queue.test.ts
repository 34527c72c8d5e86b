import { describe, expect, test } from "vitest";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import vectorFile from "./vectors/storage.json" with { type: "json" };
import { StorvscQueue } from "../src/index.js";
import {
  DataDirection,
  emitTestUnitReadyCdb,
  FreebsdSrbFlags,
  Opcode,
  parseScsiRequest,
  transferBlocks,
  transferLba,
  VstorOperation,
} from "../src/protocol/index.js";
import { legacyParameters, parameters, QueueRig } from "./queue-rig.js";
import { failed, good } from "./ram-target.js";
import { reply, scsiReply, type HostRequest } from "./scripted-host.js";

const hexOf = (id: string): string => vectorFile.vectors.find((vector) => vector.id === id)!.hex;
const bytesOf = (id: string): Uint8Array => new Uint8Array(Buffer.from(hexOf(id), "hex"));

const testUnitReady = new Uint8Array(16);
const turLength = emitTestUnitReadyCdb(testUnitReady, 0);

/** A rig whose host answers nothing until told. */
function silentRig(options?: ConstructorParameters<typeof QueueRig>[0]): QueueRig {
  const rig = new QueueRig(options);
  rig.host.script = () => undefined;
  return rig;
}

/** Sends TEST UNIT READY in a slot and lets the host see it. */
function sendTestUnitReady(rig: QueueRig, slot: number): HostRequest {
  rig.queue.submitCommand(slot, 0, 0, testUnitReady, turLength, DataDirection.none, undefined);
  rig.queue.flush();
  rig.run();
  return rig.host.requests.at(-1)!;
}

describe("packets, byte for byte", () => {
  test("BEGIN_INITIALIZATION in either dialect", () => {
    for (const [size, id] of [
      [64, "vmbus-inband-begin-init"],
      [48, "vmbus-inband-begin-init-48"],
    ] as const) {
      const rig = silentRig();
      const packet = new Uint8Array(size);
      packet[0] = VstorOperation.beginInitialization;
      packet[4] = 1;
      rig.queue.sendControl(packet, () => undefined);
      const ring = rig.memory.copyOut(PAGE_SIZE, size + 24);
      expect(Buffer.from(ring).toString("hex")).toBe(hexOf(id));
    }
  });

  test("a read of 4096 bytes in two pages", () => {
    const id = "vmbus-gpadirect-read10-ofs200-2pages";
    // The page numbers of the vector need memory up to there; it is never touched.
    const rig = silentRig({ memoryPages: 0x12400 });
    const slots = rig.claim(6);
    // In front of it lies a packet of 64 bytes without data.
    sendTestUnitReady(rig, slots[0]!);
    const data = rig.list([0x12345200, 4096]);
    rig.memory.clear(PAGE_SIZE + 0x58, 16);
    expect(slots[5]).toBe(6);
    rig.queue.submitTransfer(slots[5]!, 0, 0, false, 8, 8, data);
    rig.queue.flush();
    const ring = rig.memory.copyOut(PAGE_SIZE + 0x58, bytesOf(id).byteLength);
    expect(Buffer.from(ring).toString("hex")).toBe(hexOf(id));
  });

  test("a completion that the host wrote", () => {
    const rig = silentRig();
    const slots = rig.claim(6);
    rig.queue.submitTransfer(slots[5]!, 0, 0, false, 8, 8, rig.list([rig.pages(1), 4096]));
    rig.queue.flush();
    rig.run();
    const vector = bytesOf("vmbus-completion-read-ok");
    const payload = vector.subarray(16, vector.byteLength - 8);
    rig.host.send(PacketType.completion, 0, 7, 0, payload);
    rig.host.channel!.flush();
    const ring = rig.memory.copyOut(18 * PAGE_SIZE, vector.byteLength - 8);
    expect(Buffer.from(ring)).toEqual(Buffer.from(vector.subarray(0, -8)));
    rig.run();
    expect(rig.endings).toEqual([[5, 0x01, 0x00, 4096]]);
  });

  test("ENUMERATE_BUS as the host writes it", () => {
    const rig = silentRig();
    const vector = bytesOf("vmbus-unsolicited-enumerate-bus");
    const seen: number[] = [];
    rig.queue.events = { busChanged: (operation) => seen.push(operation), closed: () => undefined };
    rig.host.send(PacketType.inBand, 0, 0, 0, vector.subarray(16, -8));
    rig.host.channel!.flush();
    rig.run();
    expect(seen).toEqual([VstorOperation.enumerateBus]);
  });

  test.each([
    ["read10-lba8-4096-freebsd", parameters, 0, false, 8],
    ["write16-lba4g-131072-freebsd-lun5", parameters, 5, true, 0x1_0000_0000],
    ["read10-win7-48", legacyParameters, 0, false, 8],
  ] as const)("%s", (id, agreed, lun, write, lba) => {
    const rig = silentRig({ description: { parameters: agreed } });
    const vector = bytesOf(id);
    const { dataTransferLength } = parseScsiRequest(vector)!;
    const data = rig.list([rig.pages(32), dataTransferLength]);
    const [slot] = rig.claim(1);
    rig.queue.submitTransfer(slot!, 0, lun, write, lba, dataTransferLength / 512, data);
    rig.queue.flush();
    rig.run();
    expect(Buffer.from(rig.host.requests[0]!.packet).toString("hex")).toBe(hexOf(id));
  });
});

describe("requests", () => {
  test("flags, direction and length by direction; nothing without a tag", () => {
    const rig = silentRig();
    const [slot] = rig.claim(1);
    const data = rig.list([rig.pages(1), 512]);
    const send = (direction: number): HostRequest => {
      const none = direction === DataDirection.none;
      rig.queue.submitCommand(slot!, 1, 9, testUnitReady, 6, direction, none ? undefined : data);
      rig.queue.flush();
      rig.run();
      const request = rig.host.requests.at(-1)!;
      rig.host.answer(request, good());
      rig.run();
      return request;
    };
    for (const [direction, srbFlags, type, lengthBytes] of [
      [DataDirection.fromDevice, FreebsdSrbFlags.read, PacketType.gpaDirect, 512],
      [DataDirection.toDevice, FreebsdSrbFlags.write, PacketType.gpaDirect, 512],
      [DataDirection.none, FreebsdSrbFlags.noData, PacketType.inBand, 0],
    ] as const) {
      const { type: sentType, scsi, flags } = send(direction);
      expect([sentType, flags]).toEqual([type, 1]);
      expect(scsi).toMatchObject({
        length: 52,
        pathId: 0,
        targetId: 1,
        lun: 9,
        senseInfoLength: 20,
        dataIn: direction,
        dataTransferLength: lengthBytes,
        extension: { queueTag: 0, queueAction: 0, srbFlags, timeOutValueSeconds: 60 },
      });
    }
  });

  test.each([
    [6, 0x1f_ffff, 1, Opcode.read6],
    [6, 0x1f_ffff, 255, Opcode.read6],
    [6, 0x20_0000, 1, Opcode.read10],
    [6, 0, 256, Opcode.read10],
    [10, 5, 1, Opcode.read10],
    [10, 0xffff_ffff, 8, Opcode.read10],
    [10, 0x1_0000_0000, 8, Opcode.read16],
    [10, 2 ** 53 - 512, 512, Opcode.read16],
    [12, 5, 1, Opcode.read12],
    [16, 5, 1, Opcode.read16],
  ])("shortest CDB %i: block %i, %i blocks", (minimumCdbBytes, lba, blocks, opcode) => {
    const rig = silentRig({ description: { minimumCdbBytes } });
    const data = rig.list([rig.pages(64), blocks * 512]);
    const [slot] = rig.claim(1);
    rig.queue.submitTransfer(slot!, 0, 0, false, lba, blocks, data);
    rig.queue.flush();
    rig.run();
    const { cdb } = rig.host.scsi[0]!;
    expect(cdb[0]).toBe(opcode);
    expect([transferLba(cdb, 0), transferBlocks(cdb, 0)]).toEqual([lba, blocks]);
    expect(cdb.byteLength).toBe({ 0: 6, 1: 10, 4: 16, 5: 12 }[opcode >>> 5]);
  });

  test("a long CDB leaves nothing behind for the next request of its slot", () => {
    const rig = silentRig({ description: { minimumCdbBytes: 16 } });
    const [slot] = rig.claim(1);
    rig.queue.submitTransfer(slot!, 0, 0, true, 2 ** 40 + 3, 1, rig.list([rig.pages(1), 512]));
    rig.queue.flush();
    rig.run();
    rig.host.answer(rig.host.requests[0]!, good(512));
    rig.run();
    const { packet } = sendTestUnitReady(rig, slot!);
    expect(Buffer.from(packet.subarray(28, 48)).every((byte) => byte === 0)).toBe(true);
  });

  test("a CDB has the length that it is said to have, whatever lies behind it", () => {
    const rig = silentRig();
    const [slot] = rig.claim(1);
    const cdb = new Uint8Array(16).fill(0x5a);
    rig.queue.submitCommand(slot!, 0, 0, cdb, 6, DataDirection.none, undefined);
    rig.queue.flush();
    rig.run();
    const { packet, scsi } = rig.host.requests[0]!;
    expect([...scsi!.cdb]).toEqual(Array<number>(6).fill(0x5a));
    expect(packet.subarray(34, 48).every((byte) => byte === 0)).toBe(true);
  });

  test("the path is the controller's", () => {
    const rig = silentRig({ description: { pathId: 1 } });
    expect(sendTestUnitReady(rig, rig.claim(1)[0]!).scsi!.pathId).toBe(1);
  });

  test("a thousand impossible requests, then a good one", () => {
    const rig = silentRig();
    const [slot] = rig.claim(1);
    const page = rig.pages(1);
    const submit = (...run: [number, number]): boolean =>
      rig.queue.submitTransfer(slot!, 0, 0, false, 0, 1, rig.list(run));
    for (let count = 0; count < 250; count++) {
      expect(() => submit(rig.memory.sizeBytes - 256, 512)).toThrow("outside guest memory");
      expect(() => submit(page, 0)).toThrow(RangeError);
      expect(() => submit(0, parameters.maxTransferBytes + 512)).toThrow("above the largest");
      expect(() => rig.queue.submitTransfer(63, 0, 0, false, 0, 1, rig.list([page, 512]))).toThrow(
        "not idle",
      );
    }
    expect(rig.queue.outstanding).toBe(0);
    expect(submit(page, 512)).toBe(true);
    expect(() => submit(page, 512)).toThrow("not idle");
    rig.queue.flush();
    rig.run();
    expect(rig.host.requests).toHaveLength(1);
  });

  test("slots run out, and come back", () => {
    const rig = silentRig({ description: { slots: 3 } });
    const slots = rig.claim(4);
    expect(slots).toEqual([1, 2, 3, -1]);
    rig.queue.release(2);
    expect(() => rig.queue.release(2)).toThrow("not idle");
    expect(() => rig.queue.release(0)).toThrow("not idle");
    expect(rig.queue.claim(rig, 7)).toBe(2);
    sendTestUnitReady(rig, 2);
    expect(() => rig.queue.release(2)).toThrow("not idle");
  });
});

describe("completions", () => {
  test("a host that answers inside the signal", () => {
    const rig = new QueueRig();
    const slots = rig.claim(4);
    rig.host.script = (request) => scsiReply(request.packet.byteLength, good());
    let inside = 0;
    const { left } = rig.connected!;
    const publish = left.outgoing.publish.bind(left.outgoing);
    left.outgoing.publish = () => {
      const signal = publish();
      if (!signal) return false;
      // The peer runs, and its answers are handled, before this signal returns.
      inside++;
      rig.run();
      expect(rig.queue.outstanding).toBeGreaterThanOrEqual(0);
      return true;
    };
    for (const slot of slots)
      rig.queue.submitCommand(slot, 0, 0, testUnitReady, 6, DataDirection.none, undefined);
    expect(rig.queue.outstanding).toBe(4);
    rig.queue.flush();
    rig.run();
    expect(inside).toBeGreaterThan(0);
    expect(rig.queue.outstanding).toBe(0);
    expect(rig.endings.map(([tag]) => tag)).toEqual([0, 1, 2, 3]);
  });

  test("a slot can be used again inside its completion, without a flush", () => {
    const rig = new QueueRig();
    const [slot] = rig.claim(1);
    rig.host.script = (request) => scsiReply(request.packet.byteLength, good());
    let left = 100;
    rig.whenComplete = () => {
      if (left-- > 0)
        rig.queue.submitCommand(slot!, 0, 0, testUnitReady, 6, DataDirection.none, undefined);
    };
    sendTestUnitReady(rig, slot!);
    expect(rig.host.requests).toHaveLength(101);
    // The id's upper half counts the uses of the slot.
    expect(rig.host.requests.map((request) => request.idHigh)).toEqual(
      Array.from({ length: 101 }, (_, use) => use),
    );
  });

  test("late, double and invented completions are dropped and counted", () => {
    const rig = silentRig();
    const [slot, other] = rig.claim(2);
    const request = sendTestUnitReady(rig, slot!);
    rig.host.answer(request, good());
    rig.host.answer(request, good());
    rig.run();
    expect(rig.endings).toHaveLength(1);
    // The slot's next request has another generation: the old completion does not end it.
    sendTestUnitReady(rig, slot!);
    rig.host.answer(request, good());
    const packet = scsiReply(64, good());
    for (const [low, high] of [
      [0, 0],
      [1, 0],
      [other! + 1, 0],
      [65, 0],
      [66, 0],
      [-1, 0],
      [slot! + 1, 5],
      [0x7fff_ffff, -1],
    ] as const)
      rig.host.send(PacketType.completion, 0, low, high, packet);
    rig.host.channel!.flush();
    rig.run();
    expect(rig.endings).toHaveLength(1);
    expect(rig.queue.counters.unknown_id).toBe(10);
    expect(rig.queue.outstanding).toBe(1);
  });

  test("short completions and other operations are dropped, and the right one still counts", () => {
    const rig = silentRig();
    const request = sendTestUnitReady(rig, rig.claim(1)[0]!);
    for (const bytes of [0, 8, 48, 56])
      rig.host.complete(request, scsiReply(64, good()).subarray(0, bytes));
    for (const operation of [0, 3, 11, 0xff]) {
      const packet = scsiReply(64, good());
      packet[0] = operation;
      rig.host.complete(request, packet);
    }
    rig.host.channel!.flush();
    rig.run();
    expect(rig.endings).toEqual([]);
    expect(rig.queue.counters.malformed).toBe(8);
    rig.host.answer(request, good());
    rig.run();
    expect(rig.endings).toEqual([[0, 1, 0, 0]]);
  });

  test("unsolicited packets that mean nothing are dropped and counted", () => {
    const rig = silentRig();
    let changes = 0;
    rig.queue.events = { busChanged: () => changes++, closed: () => undefined };
    const operation = (code: number, bytes = 64): Uint8Array => {
      const packet = new Uint8Array(bytes);
      packet[0] = code;
      return packet;
    };
    const { inBand, gpaDirect } = PacketType;
    rig.host.send(inBand, 0, 0, 0, operation(VstorOperation.completeIo));
    rig.host.send(inBand, 0, 0, 0, operation(VstorOperation.fibreChannelHbaData));
    rig.host.send(inBand, 0, 0, 0, operation(VstorOperation.enumerateBus, 8));
    rig.host.send(inBand, 0, 5, 0, operation(VstorOperation.enumerateBus));
    rig.host.send(inBand, 0, 0, 1, operation(VstorOperation.enumerateBus));
    rig.host.channel!.flush();
    rig.run();
    expect([changes, rig.queue.counters.dropped]).toEqual([0, 5]);
    rig.host.send(inBand, 0, 0, 0, operation(VstorOperation.removeDevice));
    rig.host.send(inBand, 0, 0, 0, operation(VstorOperation.enumerateBus, 16));
    rig.host.channel!.flush();
    rig.run();
    expect([changes, rig.queue.counters.bus_changed]).toEqual([2, 2]);
    expect(gpaDirect).toBe(9);
  });

  test("sense data is kept when both bytes say so, and clamped", () => {
    const rig = silentRig();
    const [slot] = rig.claim(1);
    const ask = (change: (packet: Uint8Array) => void): Uint8Array => {
      const request = sendTestUnitReady(rig, slot!);
      const packet = scsiReply(64, failed(6, 0x2a09));
      change(packet);
      rig.host.complete(request, packet);
      rig.host.channel!.flush();
      rig.run();
      return rig.queue.sense(slot!);
    };
    const senseLength = 12 + 9;
    expect(ask(() => undefined)).toHaveLength(20);
    expect(ask((packet) => (packet[senseLength] = 255))).toHaveLength(20);
    const short = ask((packet) => (packet[senseLength] = 14));
    expect([short.length, short[2], short[12], short[13]]).toEqual([14, 6, 0x2a, 0x09]);
    expect(ask((packet) => (packet[14] = 0x04))).toHaveLength(0);
    expect(ask((packet) => (packet[15] = 0x00))).toHaveLength(0);
  });

  test("a short transfer and one that is too long", () => {
    const rig = silentRig();
    const [slot] = rig.claim(1);
    for (const [transferred, counted] of [
      [512, 512],
      [99999, 4096],
    ] as const) {
      rig.queue.submitTransfer(slot!, 0, 0, false, 0, 8, rig.list([rig.pages(1), 4096]));
      rig.queue.flush();
      rig.run();
      rig.host.answer(rig.host.requests.at(-1)!, { srbStatus: 1, scsiStatus: 0, transferred });
      rig.run();
      expect(rig.endings.at(-1)).toEqual([0, 1, 0, counted]);
    }
  });

  test("an older dialect gets packets of 48 bytes, and takes them", () => {
    const rig = silentRig({ description: { parameters: legacyParameters } });
    const request = sendTestUnitReady(rig, rig.claim(1)[0]!);
    expect(request.packet).toHaveLength(48);
    expect(request.scsi).toMatchObject({ length: 36, senseInfoLength: 18 });
    rig.host.answer(request, good());
    rig.run();
    expect(rig.endings).toHaveLength(1);
  });
});

describe("a full ring", () => {
  test("requests wait in their order and none fails", () => {
    // One page of data: about 36 requests.
    const rig = silentRig({ ringPages: 2, description: { slots: 200 } });
    const slots = rig.claim(200);
    const page = rig.pages(1);
    for (const [lba, slot] of slots.entries())
      rig.queue.submitTransfer(slot, 0, 0, false, lba, 8, rig.list([page, 4096]));
    rig.queue.flush();
    expect(rig.queue.counters.ring_full).toBe(1);
    expect(rig.queue.outstanding).toBe(200);
    expect(rig.queue.inspect()["waiting"]).toBeGreaterThan(150);
    rig.run();
    expect(rig.host.scsi.map(({ cdb }) => transferLba(cdb, 0))).toEqual(
      Array.from({ length: 200 }, (_, lba) => lba),
    );
    // The guest's ring of completions holds fewer than 200 as well.
    for (const request of rig.host.requests) {
      rig.host.answer(request, good(4096));
      rig.run();
    }
    expect(rig.endings).toHaveLength(200);
    expect(rig.queue.outstanding).toBe(0);
  });

  test("requests that were made while others wait go behind them", () => {
    const rig = silentRig({ ringPages: 2, description: { slots: 100 } });
    const slots = rig.claim(100);
    const list = rig.list([rig.pages(1), 4096]);
    for (const [lba, slot] of slots.slice(0, 60).entries())
      rig.queue.submitTransfer(slot, 0, 0, false, lba, 8, list);
    rig.connected!.right.poll(5);
    for (const [index, slot] of slots.slice(60).entries())
      rig.queue.submitTransfer(slot, 0, 0, false, 60 + index, 8, list);
    rig.queue.flush();
    rig.run();
    expect(rig.host.scsi.map(({ cdb }) => transferLba(cdb, 0))).toEqual(
      Array.from({ length: 100 }, (_, lba) => lba),
    );
  });
});

test("the line goes round: a full ring over and over", () => {
  const rig = silentRig({ ringPages: 2, description: { slots: 70 } });
  const slots = rig.claim(70);
  const list = rig.list([rig.pages(1), 4096]);
  rig.host.script = ({ packet }) => scsiReply(packet.byteLength, good(4096));
  let lba = 0;
  // The line is as long as there are slots; the first five move its start, so that it is in two parts.
  for (const count of [5, 70, 70, 70]) {
    for (const slot of slots.slice(0, count))
      rig.queue.submitTransfer(slot, 0, 0, false, lba++, 8, list);
    rig.queue.flush();
    if (count > 5) expect(rig.queue.inspect()["waiting"]).toBeGreaterThan(20);
    rig.run();
  }
  expect(rig.host.scsi.map(({ cdb }) => transferLba(cdb, 0))).toEqual(
    Array.from({ length: lba }, (_, index) => index),
  );
  expect(rig.endings).toHaveLength(lba);
});

describe("the end of the channel", () => {
  /** A rig with one answered, one unanswered and many waiting requests. */
  function busyRig(): QueueRig {
    const rig = silentRig({ ringPages: 2, description: { slots: 60 } });
    const list = rig.list([rig.pages(1), 4096]);
    for (const slot of rig.claim(60)) rig.queue.submitTransfer(slot, 0, 0, false, 0, 8, list);
    rig.queue.flush();
    rig.connected!.right.poll(2);
    rig.host.answer(rig.host.requests[1]!, good(4096));
    return rig;
  }

  test("a rescind ends those who wait, then takes what the host has finished, then ends the rest", () => {
    const rig = busyRig();
    const reasons: string[] = [];
    rig.queue.events = { busChanged: () => undefined, closed: (reason) => reasons.push(reason) };
    rig.queue.stop("rescinded");
    expect(reasons).toEqual(["rescinded"]);
    expect(rig.endings).toHaveLength(60);
    const firstSent = rig.endings.findIndex((ending) => ending[1] === "sent");
    const answered = rig.endings.findIndex((ending) => ending[1] === 1);
    const lastUnsent = rig.endings.findLastIndex((ending) => ending[1] === "unsent");
    expect(rig.endings[answered]).toEqual([1, 1, 0, 4096]);
    expect(lastUnsent).toBeLessThan(answered);
    expect(answered).toBeLessThan(firstSent);
    expect(rig.queue.outstanding).toBe(0);
  });

  test("a submission after the end is refused, also from inside an ending", () => {
    const rig = busyRig();
    const seen: boolean[] = [];
    rig.whenComplete = () =>
      seen.push(rig.queue.submitCommand(2, 0, 0, testUnitReady, 6, DataDirection.none, undefined));
    rig.queue.stop("rescinded");
    expect(seen).toEqual([false]);
    expect(rig.queue.submitTransfer(1, 0, 0, false, 0, 1, rig.list([0, 512]))).toBe(false);
    expect(rig.queue.sendControl(new Uint8Array(48), () => undefined)).toBe(false);
    rig.queue.stop();
    expect(rig.calls.filter((call) => call.startsWith("unbind"))).toEqual(["unbind rescinded"]);
  });

  test("a ring that the host corrupts closes the channel inside the submission", () => {
    const rig = silentRig({ ringPages: 2, description: { slots: 60 } });
    const slots = rig.claim(60);
    const list = rig.list([rig.pages(1), 4096]);
    // The host claims to have read what was never written.
    rig.memory.words[1] = 2048;
    const accepted = slots.map((slot) => rig.queue.submitTransfer(slot, 0, 0, false, 0, 8, list));
    expect(accepted.at(0)).toBe(true);
    expect(accepted.at(-1)).toBe(false);
    expect(rig.queue.closedReason).toBe("corrupt");
    expect(rig.endings).toHaveLength(accepted.filter(Boolean).length);
    // The dispatcher still has to forget it.
    rig.queue.stop();
    expect(rig.calls).toContain("unbind closed");
  });

  test("drained resolves at once when nothing is in flight, else with the last completion", async () => {
    const rig = silentRig();
    await rig.queue.drained();
    const [slot] = rig.claim(1);
    const request = sendTestUnitReady(rig, slot!);
    let drained = false;
    void rig.queue.drained().then(() => (drained = true));
    await rig.rest();
    expect(drained).toBe(false);
    rig.host.answer(request, good());
    await rig.rest();
    expect(drained).toBe(true);
  });
});

describe("control packets", () => {
  test("the answer comes as it is; one that comes too late is dropped", () => {
    const rig = silentRig();
    const answers: string[] = [];
    const send = (name: string): HostRequest => {
      rig.queue.sendControl(new Uint8Array(48), (packet) =>
        answers.push(`${name} ${packet.byteLength}`),
      );
      rig.run();
      return rig.host.requests.at(-1)!;
    };
    const first = send("first");
    const second = send("second");
    rig.host.complete(first, reply(48));
    rig.host.complete(second, reply(16));
    rig.host.complete(second, reply(48));
    rig.host.channel!.flush();
    rig.run();
    expect(answers).toEqual(["second 16"]);
    expect(rig.queue.counters.unknown_id).toBe(2);
  });

  test("more than a packet can hold is cut off", () => {
    const rig = silentRig();
    let size = 0;
    rig.queue.sendControl(new Uint8Array(64), (packet) => (size = packet.byteLength));
    rig.run();
    rig.host.complete(rig.host.requests[0]!, new Uint8Array(1024));
    rig.host.channel!.flush();
    rig.run();
    expect(size).toBe(64);
  });

  test("a queue that is not configured takes no SCSI requests", () => {
    const rig = silentRig();
    const bare = new StorvscQueue(rig.queueContext, {
      channel: rig.description,
      slots: 4,
      bounceBuffers: 1,
      minimumCdbBytes: 10,
      pathId: 0,
    });
    expect(bare.parameters).toBeUndefined();
    const slot = bare.claim(rig, 0);
    expect(() =>
      bare.submitCommand(slot, 0, 0, testUnitReady, 6, DataDirection.none, undefined),
    ).toThrow("not configured");
  });
});
