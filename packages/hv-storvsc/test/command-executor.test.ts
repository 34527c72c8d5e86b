import { describe, expect, test } from "vitest";
import { CommandExecutor, type ScsiCommand } from "../src/command-executor.js";
import { Outcome, type ScsiError } from "../src/index.js";
import { DataDirection } from "../src/protocol/index.js";
import { QueueRig } from "./queue-rig.js";
import { good } from "./ram-target.js";
import { codeOf } from "./rig.js";
import type { HostRequest } from "./scripted-host.js";

const testUnitReady: ScsiCommand = {
  target: 0,
  lun: 0,
  command: new Uint8Array(6),
  direction: DataDirection.none,
};

const readOf = (data: Uint8Array, lba = 0): ScsiCommand => ({
  target: 0,
  lun: 0,
  command: { write: false, lba, blocks: data.byteLength / 512 },
  direction: DataDirection.fromDevice,
  data,
});

/** An executor whose host holds everything. */
function held(): { rig: QueueRig; executor: CommandExecutor; requests: HostRequest[] } {
  const rig = new QueueRig({ memoryPages: 4096 });
  rig.host.script = () => undefined;
  const executor = new CommandExecutor(rig.queue, rig.timers);
  return { rig, executor, requests: rig.host.requests };
}

describe("commands", () => {
  test("more than can be in flight wait for each other", async () => {
    const { rig, executor, requests } = held();
    const results = Array.from({ length: 100 }, () => executor.execute(testUnitReady));
    rig.run();
    expect(requests).toHaveLength(32);
    for (let index = 0; index < 100; index++) {
      rig.host.answer(requests[index]!, good());
      rig.run();
    }
    const outcomes = (await Promise.all(results)).map(({ outcome }) => outcome);
    expect(new Set(outcomes)).toEqual(new Set([Outcome.ok]));
  });

  test("data outside guest memory takes turns with the buffers, data inside does not wait", async () => {
    const { rig, executor, requests } = held();
    const outside = Array.from({ length: 12 }, (_, lba) =>
      executor.execute(readOf(new Uint8Array(512), lba)),
    );
    rig.run();
    expect(requests).toHaveLength(8);
    const addresses = new Set(requests.map(({ runs }) => runs[0]![0]));
    expect(addresses.size).toBe(8);
    const page = rig.pages(1);
    const inside = executor.execute(readOf(rig.memory.bytes.subarray(page, page + 512)));
    rig.run();
    // It has its place behind those that came before.
    expect(requests).toHaveLength(8);
    for (let index = 0; index < 13; index++) {
      const request = requests[index]!;
      rig.host.write(request, new Uint8Array(512).fill(index + 1));
      rig.host.answer(request, good(512));
      rig.run();
    }
    await Promise.all([...outside, inside]);
    // Waiting for a buffer costs no place, however often.
    const more = Array.from({ length: 60 }, () => executor.execute(readOf(new Uint8Array(512))));
    for (let index = 13; index < 73; index++) {
      rig.run();
      rig.host.answer(requests[index]!, good(512));
    }
    rig.run();
    await Promise.all(more);
    const others = Array.from({ length: 40 }, () => codeOf(executor.execute(testUnitReady)));
    rig.run();
    expect(requests).toHaveLength(73 + 32);
    rig.queue.stop();
    executor.close();
    await Promise.all(others);
    requests.length = 13;
    expect(rig.memory.bytes[page]).toBe(13);
    expect(new Set(requests.map(({ runs }) => runs[0]![0])).size).toBe(9);
  });

  test("only what was transferred is copied", async () => {
    const { rig, executor, requests } = held();
    const data = new Uint8Array(1024).fill(0xee);
    const result = executor.execute(readOf(data));
    rig.run();
    rig.host.write(requests[0]!, new Uint8Array(1024).fill(7));
    rig.host.answer(requests[0]!, good(512));
    rig.run();
    expect((await result).transferredBytes).toBe(512);
    expect([data[511], data[512]]).toEqual([7, 0xee]);
  });

  test("contradictions are mistakes of the caller's", () => {
    const { executor } = held();
    expect(() =>
      executor.execute({ ...testUnitReady, direction: DataDirection.fromDevice }),
    ).toThrow("contradict");
    expect(() => executor.execute({ ...testUnitReady, data: new Uint8Array(8) })).toThrow(
      "contradict",
    );
    expect(() => executor.execute(readOf(new Uint8Array(0x40000 + 512)))).toThrow(
      "above the largest",
    );
  });
});

describe("time", () => {
  test("an orphan keeps its slot and its buffer until the completion comes", async () => {
    const { rig, executor, requests } = held();
    const free = rig.allocator.freePages;
    const data = new Uint8Array(512);
    const late = executor
      .execute({ ...readOf(data), timeoutMs: 1000 })
      .catch((error: unknown) => error as ScsiError);
    rig.run();
    rig.timers.advance(1000);
    const error = await late;
    expect(error).toMatchObject({ code: "ERR_SCSI_TIMEOUT" });
    let released = false;
    void (error as ScsiError).released!.then(() => (released = true));
    expect(executor.orphans).toBe(1);
    // Others neither get its slot nor its memory.
    const others = Array.from({ length: 40 }, (_, lba) =>
      executor.execute(readOf(new Uint8Array(512), lba)),
    );
    await rig.rest();
    const orphan = requests[0]!;
    for (let index = 1; index <= 40; index++) {
      expect(requests[index]!.idLow).not.toBe(orphan.idLow);
      expect(requests[index]!.runs[0]![0]).not.toBe(orphan.runs[0]![0]);
      rig.host.answer(requests[index]!, good(512));
      rig.run();
    }
    await Promise.all(others);
    expect(released).toBe(false);
    rig.host.write(orphan, new Uint8Array(512).fill(5));
    rig.host.answer(orphan, good(512));
    await rig.rest();
    expect(released).toBe(true);
    expect([executor.orphans, data[0]]).toEqual([0, 0]);
    executor.close();
    // The executor had one buffer from the start, which counted as taken.
    expect(rig.allocator.freePages).toBe(free + 64);
    expect(rig.allocator.leakedPages).toBe(0);
  });

  test("orphans do not use up the executor", async () => {
    const { rig, executor, requests } = held();
    // As many as there are buffers, all lost.
    const lost = Array.from({ length: 8 }, () =>
      codeOf(executor.execute({ ...readOf(new Uint8Array(512)), timeoutMs: 10 })),
    );
    rig.run();
    rig.timers.advance(10);
    expect(new Set(await Promise.all(lost))).toEqual(new Set(["ERR_SCSI_TIMEOUT"]));
    const next = executor.execute(readOf(new Uint8Array(512)));
    rig.run();
    expect(requests).toHaveLength(9);
    rig.host.answer(requests[8]!, good(512));
    rig.run();
    await next;
    // As many as there are places, and more.
    for (let count = 9; count < 50; count++) {
      const code = codeOf(executor.execute({ ...testUnitReady, timeoutMs: 10 }));
      rig.run();
      rig.timers.advance(10);
      expect(await code).toBe("ERR_SCSI_TIMEOUT");
      expect(requests).toHaveLength(count + 1);
    }
    expect(executor.orphans).toBe(49);
  });

  test("a command that was never sent is no orphan", async () => {
    const { rig, executor, requests } = held();
    const all = Array.from({ length: 40 }, (_, index) =>
      codeOf(executor.execute({ ...testUnitReady, timeoutMs: index < 32 ? 99 : 10 })),
    );
    rig.run();
    rig.timers.advance(10);
    expect(await Promise.all(all.slice(32))).toEqual(Array<string>(8).fill("ERR_SCSI_TIMEOUT"));
    expect(executor.orphans).toBe(0);
    for (const request of requests.splice(0)) rig.host.answer(request, good());
    rig.run();
    expect(requests).toEqual([]);
    expect(new Set(await Promise.all(all.slice(0, 32)))).toEqual(new Set(["resolved"]));
  });

  test("a completion in time stops the clock", async () => {
    const { rig, executor, requests } = held();
    const result = executor.execute({ ...testUnitReady, timeoutMs: 10 });
    rig.run();
    rig.host.answer(requests[0]!, good());
    rig.run();
    await result;
    expect(rig.timers.nextMs).toBe(Infinity);
  });
});

describe("the end of the channel", () => {
  test("sent, waiting and orphaned commands all end; buffers are leaked only where the host has them", async () => {
    const { rig, executor } = held();
    const free = rig.allocator.freePages;
    const orphan = executor.execute({ ...readOf(new Uint8Array(512)), timeoutMs: 1 });
    const orphanError = orphan.catch((error: unknown) => error as ScsiError);
    rig.run();
    rig.timers.advance(1);
    const sent = Array.from({ length: 8 }, () =>
      codeOf(executor.execute(readOf(new Uint8Array(512)))),
    );
    const waiting = Array.from({ length: 9 }, () =>
      codeOf(executor.execute({ ...readOf(new Uint8Array(512)), timeoutMs: 50 })),
    );
    rig.run();
    rig.queue.stop("rescinded");
    executor.close();
    expect(new Set(await Promise.all([...sent, ...waiting]))).toEqual(new Set(["ERR_RESCINDED"]));
    await ((await orphanError) as ScsiError).released;
    expect(executor.orphans).toBe(0);
    expect(rig.allocator.leakedPages).toBe(9 * 64);
    // The first buffers of the executor and of the queue counted as taken before.
    expect(rig.allocator.freePages).toBe(free + 2 * 64 - 9 * 64);
    expect(rig.timers.nextMs).toBe(Infinity);
    expect(await codeOf(executor.execute(testUnitReady))).toBe("ERR_RESCINDED");
  });

  test("a completion that a rescind leaves behind counts, and starts nothing new", async () => {
    const { rig, executor, requests } = held();
    const codes = Array.from({ length: 40 }, () => codeOf(executor.execute(testUnitReady)));
    rig.connected!.right.poll(100);
    rig.host.answer(requests[5]!, good());
    rig.queue.stop("rescinded");
    executor.close();
    const ended = await Promise.all(codes);
    expect(ended.indexOf("resolved")).toBe(5);
    expect(ended.filter((code) => code === "ERR_RESCINDED")).toHaveLength(39);
  });

  test("before the end: no new commands, no more pauses, but those at the host go on", async () => {
    const { rig, executor, requests } = held();
    const old = executor.execute(testUnitReady);
    const pause = executor.pause(1000);
    rig.run();
    executor.refuse();
    await pause;
    expect(await codeOf(executor.execute(testUnitReady))).toBe("ERR_CLOSED");
    rig.host.answer(requests[0]!, good());
    rig.run();
    expect((await old).outcome).toBe(Outcome.ok);
    expect([requests.length, rig.timers.nextMs]).toEqual([1, Infinity]);
  });

  test("the end wakes those who pause", async () => {
    const { rig, executor } = held();
    const pause = executor.pause(1000);
    rig.queue.stop();
    executor.close();
    await pause;
    expect(rig.timers.nextMs).toBe(Infinity);
  });

  test("what the host never saw is not leaked", async () => {
    const rig = new QueueRig({ ringPages: 2 });
    rig.host.script = () => undefined;
    const executor = new CommandExecutor(rig.queue, rig.timers);
    const [slot, ...slots] = rig.claim(40);
    expect(slot).toBeGreaterThan(0);
    // Fill the ring, so that the executor's command waits in line.
    for (const other of slots)
      rig.queue.submitTransfer(other, 0, 0, false, 0, 8, rig.list([rig.pages(1), 4096]));
    const waiting = codeOf(executor.execute(readOf(new Uint8Array(512))));
    rig.queue.stop();
    executor.close();
    expect(await waiting).toBe("ERR_CLOSED");
    expect(rig.allocator.leakedPages).toBe(0);
  });
});
