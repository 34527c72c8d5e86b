import { beforeEach, describe, expect, test } from "vitest";
import {
  CdbFlag,
  Opcode,
  emitSynchronizeCache10Cdb,
  emitTransferCdb,
  emitUnmapCdb,
} from "@hyperv-is/hv-storvsc/protocol";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import {
  DelayedBackend,
  ScsiDisk,
  type AsyncDiskBackend,
  type BackendEnded,
  type DataBuffer,
  type RamDisk,
} from "@hyperv-is/hyperv-host";
import { DATA, Rig, read, smallDisk, testUnitReady, write } from "./storvsp-rig.js";

/** A backend whose calls do their work, and end, when a test says so. */
class HeldBackend implements AsyncDiskBackend {
  readonly disk: RamDisk = smallDisk();
  /** Calls in flight, in order. */
  readonly calls: { readonly name: string; readonly end: (error?: unknown) => void }[] = [];

  read(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    this.#hold(`read ${sector}`, ended, () =>
      this.disk.read(sector * 512, buffer.bytes, buffer.runAddress(0), lengthBytes),
    );
  }

  write(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    this.#hold(`write ${sector}`, ended, () =>
      this.disk.write(sector * 512, buffer.bytes, buffer.runAddress(0), lengthBytes),
    );
  }

  flush(ended: BackendEnded): void {
    this.#hold("flush", ended, () => undefined);
  }

  whenIdle(work: () => void): void {
    this.#hold("idle", () => undefined, work);
  }

  /** Ends the call at an index, with an error instead of its work if one is given. */
  end(index = 0, error?: unknown): void {
    this.calls.splice(index, 1)[0]!.end(error);
  }

  get names(): string[] {
    return this.calls.map(({ name }) => name);
  }

  #hold(name: string, ended: BackendEnded, work: () => void): void {
    this.calls.push({
      name,
      end: (error) => {
        if (error === undefined) work();
        ended(error);
      },
    });
  }
}

const failure = Object.assign(new Error("no"), { code: "ERR_TEST" });
const forced = (lba: number, blocks: number) => (target: Uint8Array, at: number) => {
  const length = emitTransferCdb(target, at, true, lba, blocks, 10);
  target[at + 1] = CdbFlag.forceUnitAccess;
  return length;
};

let backend: HeldBackend;
let rig: Rig;
beforeEach(() => {
  backend = new HeldBackend();
  rig = new Rig({ disks: [backend] });
  rig.initialize();
});
/** Ids of the requests that are answered, in order. */
const answered = (): number[] => rig.replies.slice(4).map(({ id }) => id);
const counters = (): object => rig.controller.luns.find(0, 0, 0)!.counters;

describe("requests of a disk that answers later", () => {
  test("are answered in the order in which they end, and the guest is told without asking", () => {
    for (const id of [10, 11, 12, 13]) rig.request(read(id, 1), { length: 512, id });
    expect(backend.names).toEqual(["read 10", "read 11", "read 12", "read 13"]);
    expect(answered()).toEqual([]);
    backend.end(2);
    backend.end(0);
    rig.pair.run();
    expect(answered()).toEqual([12, 10]);
    // Others go on meanwhile.
    rig.request(testUnitReady, { id: 20 });
    backend.end(1);
    backend.end(0);
    rig.pair.run();
    expect(answered()).toEqual([12, 10, 20, 13, 11]);
    expect(rig.last).toMatchObject({ srbStatus: 1, dataTransferLength: 512 });
    expect(counters()).toMatchObject({ reads: 4, readBytes: 2048 });
  });

  test("move data of their own, whatever came after them on the channel", () => {
    const page = (index: number): [number, number] => [DATA + index * PAGE_SIZE, 1024];
    backend.disk.write(0, new Uint8Array(1024).fill(3), 0, 1024);
    rig.memory.bytes.fill(7, DATA + PAGE_SIZE, DATA + PAGE_SIZE + 1024);
    rig.request(read(0, 2), { length: 1024, range: page(0), id: 30 });
    rig.request(write(8, 2), { length: 1024, range: page(1), direction: 0, id: 31, size: 48 });
    rig.request(read(8, 2), { length: 1024, range: page(2), id: 32, lun: 0 });
    expect(rig.written).toEqual([]);
    backend.end(1);
    backend.end(1);
    backend.end(0);
    rig.pair.run();
    expect(answered()).toEqual([31, 32, 30]);
    expect(rig.replies.slice(4).map(({ bytes }) => bytes.byteLength)).toEqual([48, 64, 64]);
    expect([rig.memory.bytes[DATA], rig.memory.bytes[DATA + 2 * PAGE_SIZE]]).toEqual([3, 7]);
    expect(rig.written).toEqual([
      [DATA + 2 * PAGE_SIZE, 1024],
      [DATA, 1024],
    ]);
  });

  test("fail as they do on a disk that answers at once", () => {
    rig.request(read(0, 1), { length: 512, id: 40 });
    rig.request(write(0, 1), { length: 512, direction: 0, id: 41 });
    rig.request(emitSynchronizeCache10Cdb, { id: 42 });
    const senses: number[][] = [];
    for (const code of ["ERR_TEST", "ERR_IMAGE_NO_SPACE", "ERR_TEST"]) {
      backend.end(0, Object.assign(new Error(code), { code }));
      rig.pair.run();
      expect(rig.last).toMatchObject({ srbStatus: 0x84, scsiStatus: 2, dataTransferLength: 0 });
      senses.push([rig.last.sense[2]!, rig.last.sense[12]!, rig.last.sense[13]!]);
    }
    expect(senses).toEqual([
      [3, 0x11, 0],
      [7, 0x27, 7],
      [3, 3, 0],
    ]);
    expect(counters()).toMatchObject({ reads: 0, writes: 0, flushes: 0, errors: 3 });
  });

  test("that are wrong are refused at once", () => {
    rig.request(read(2048, 1), { length: 512, id: 50 });
    rig.request(write(0, 1), { length: 512, direction: 1, id: 51 });
    expect([answered(), backend.calls]).toEqual([[50, 51], []]);
  });

  test("SYNCHRONIZE CACHE ends with the backend's flush, a forced write after one", () => {
    rig.request(emitSynchronizeCache10Cdb, { id: 60 });
    rig.request(forced(4, 1), { length: 512, direction: 0, id: 61 });
    expect(backend.names).toEqual(["flush", "write 4"]);
    backend.end(1);
    expect(backend.names).toEqual(["flush", "flush"]);
    backend.end(1);
    backend.end(0);
    rig.pair.run();
    expect(answered()).toEqual([61, 60]);
    expect(counters()).toMatchObject({ writes: 1, flushes: 2 });
    rig.request(forced(4, 1), { length: 512, direction: 0, id: 62 });
    backend.end(0);
    backend.end(0, failure);
    rig.pair.run();
    expect(rig.last.srbStatus).toBe(0x84);
    expect(counters()).toMatchObject({ writes: 1, flushes: 2, errors: 1 });
  });

  test("UNMAP and WRITE SAME have the disk to themselves", () => {
    backend.disk.write(0, new Uint8Array(8192).fill(3), 0, 8192);
    const list = new Uint8Array(24);
    list.set([0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
    rig.memory.bytes.set(list, DATA);
    const unmap = (target: Uint8Array, at: number): number => emitUnmapCdb(target, at, 24);
    rig.request(unmap, { length: 24, direction: 0, id: 70 });
    const same = (target: Uint8Array, at: number): number => {
      target.set([Opcode.writeSame10, 0, 0, 0, 0, 8, 0, 0, 8], at);
      return 10;
    };
    rig.memory.bytes.fill(5, DATA + PAGE_SIZE, DATA + PAGE_SIZE + 512);
    rig.request(same, { length: 512, range: [DATA + PAGE_SIZE, 512], direction: 0, id: 71 });
    expect([backend.names, answered()]).toEqual([["idle", "idle"], []]);
    backend.end();
    backend.end();
    rig.pair.run();
    expect(answered()).toEqual([70, 71]);
    const found = new Uint8Array(8192);
    backend.disk.read(0, found, 0, 8192);
    expect([found[0], found[4096]]).toEqual([0, 5]);
  });
});

describe("a channel with requests in flight", () => {
  test("takes 256 of them and leaves the rest in the ring until one ends", () => {
    rig = new Rig({ disks: [backend], ringPages: 12 });
    rig.initialize();
    for (let id = 100; id < 400; id++) rig.request(read(0, 1), { length: 512, id });
    expect(backend.calls).toHaveLength(256);
    backend.end(0);
    rig.pair.run();
    expect([backend.calls.length, answered()]).toEqual([256, [100]]);
    while (backend.calls.length > 0) {
      backend.end(backend.calls.length - 1);
      rig.pair.run();
    }
    expect(new Set(answered()).size).toBe(300);
    expect(answered()).toHaveLength(300);
  });

  test("lets go of the guest's memory when the last of them has ended, and sends nothing any more", () => {
    rig.request(read(0, 1), { length: 512 });
    rig.request(read(1, 1), { length: 512 });
    rig.pair.right.close();
    let released = 0;
    rig.handler.release(() => released++);
    backend.end(1);
    expect(released).toBe(0);
    backend.end(0, failure);
    expect(released).toBe(1);
    rig.handler.release(() => released++);
    rig.pair.run();
    expect([released, answered()]).toEqual([2, []]);
  });

  test("cannot be saved", () => {
    rig.request(read(0, 1), { length: 512 });
    expect(rig.handler.save?.()).toBeUndefined();
    backend.end();
    rig.pair.run();
    expect(rig.handler.save?.()).toBeDefined();
  });

  test("is told that its LUNs changed all the same, and a disk that went away ends what it began", () => {
    rig.request(read(0, 1), { length: 512, id: 80 });
    rig.controller.detach({ path: 0, target: 0, lun: 0 });
    rig.pair.run();
    expect(answered()).toEqual([0]);
    backend.end();
    rig.pair.run();
    expect(answered()).toEqual([0, 80]);
    expect(rig.last.srbStatus).toBe(1);
  });

  test("has completions wait for room, and loses none", () => {
    for (let id = 100; id < 140; id++) rig.request(read(0, 1), { length: 512, id });
    for (let id = 140; id < 180; id++) rig.request(read(0, 1), { length: 512, id });
    rig.reading = false;
    while (backend.calls.length > 0) backend.end();
    expect(rig.controller.counters.completionsDelayed).toBeGreaterThan(0);
    rig.reading = true;
    rig.pair.left.interrupt();
    for (let round = 0; round < 10; round++) {
      rig.pair.left.poll(1000);
      rig.timers.advance(5);
      rig.pair.run();
    }
    expect(answered()).toEqual(Array.from({ length: 80 }, (_, index) => 100 + index));
  });
});

describe("faults of requests in flight", () => {
  const start = (fault: ConstructorParameters<typeof Rig>[0] & object): void => {
    rig = new Rig({ disks: [backend], ...fault });
    rig.initialize();
  };

  test("late", () => {
    start({ faults: [{ kind: "late-completion", nth: 1, delayMs: 10 }] });
    rig.request(read(0, 1), { length: 512, id: 7 });
    backend.end();
    rig.timers.advance(9);
    expect([answered(), rig.handler.save?.()]).toEqual([[], undefined]);
    rig.timers.advance(1);
    rig.pair.run();
    expect(answered()).toEqual([7]);
  });

  test.each([
    ["lost-completion", []],
    ["duplicate-completion", [7, 7]],
  ] as const)("%s", (kind, ids) => {
    start({ faults: [{ kind, nth: 1, operation: "read" }] });
    rig.request(read(0, 1), { length: 512, id: 7 });
    backend.end();
    rig.pair.run();
    expect(answered()).toEqual(ids);
  });

  test("short", () => {
    start({ faults: [{ kind: "short-transfer", bytes: 700 }] });
    rig.request(read(0, 2), { length: 1024 });
    backend.end();
    rig.pair.run();
    expect(rig.last).toMatchObject({ srbStatus: 1, dataTransferLength: 512 });
  });
});

describe("a backend with a delay", () => {
  const memory: DataBuffer = {
    bytes: new Uint8Array(512),
    lengthBytes: 512,
    runs: 1,
    runAddress: () => 0,
    runLength: () => 512,
  };
  let timers: VirtualTimers;
  let delayed: DelayedBackend;
  let ended: string[];
  const note = (name: string) => (error?: unknown) =>
    void ended.push(error === undefined ? name : `${name} failed`);
  beforeEach(() => {
    timers = new VirtualTimers();
    delayed = new DelayedBackend(smallDisk(), 500, timers);
    ended = [];
  });

  test("has any number of calls take as long as one, each from its own beginning", () => {
    expect(delayed.isBusy).toBe(false);
    for (const name of ["a", "b", "c"]) delayed.read(0, 512, memory, note(name));
    timers.advance(0.25);
    delayed.read(0, 512, memory, note("d"));
    timers.advance(0.125);
    expect([ended, delayed.isBusy]).toEqual([[], true]);
    timers.advance(0.125);
    expect([ended, delayed.isBusy]).toEqual([["a", "b", "c"], true]);
    timers.advance(0.25);
    expect([ended, delayed.isBusy]).toEqual([["a", "b", "c", "d"], false]);
  });

  test("holds nobody up who waits when an end brings about another call", () => {
    delayed.read(0, 512, memory, () => delayed.read(0, 512, memory, note("after a")));
    timers.advance(0.25);
    delayed.read(0, 512, memory, note("b"));
    timers.advance(0.5);
    expect(ended).toEqual(["b"]);
    timers.advance(0.25);
    expect(ended).toEqual(["b", "after a"]);
  });

  test("moves data, flushes and makes room for oneself in order", () => {
    memory.bytes.fill(4);
    delayed.write(0, 512, memory, note("write"));
    delayed.flush(note("flush"));
    delayed.whenIdle(() => {
      delayed.disk.unmap(0, 4096);
      ended.push("unmap");
    });
    delayed.read(0, 512, memory, note("read"));
    timers.advance(0.5);
    expect(ended).toEqual(["write", "flush", "unmap", "read"]);
    expect(memory.bytes[0]).toBe(0);
  });

  test("fails as the one behind it does", () => {
    delayed.read(2048, 512, memory, note("read"));
    timers.advance(1);
    expect(ended).toEqual(["read failed"]);
  });

  test("serves a guest's requests", () => {
    rig = new Rig();
    rig.controller.attach(
      { path: 0, target: 0, lun: 1 },
      new ScsiDisk(new DelayedBackend(smallDisk(), 500, rig.timers)),
    );
    rig.initialize();
    rig.request(read(0, 1), { length: 512, lun: 1, id: 90 });
    rig.request(testUnitReady, { lun: 1, id: 91 });
    expect(answered()).toEqual([91]);
    rig.timers.advance(1);
    rig.pair.run();
    expect(answered()).toEqual([91, 90]);
  });
});
