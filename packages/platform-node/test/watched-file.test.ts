import { once } from "node:events";
import { closeSync, constants, openSync, readSync, readdirSync, writeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { nextTick } from "node:process";
import { setTimeout as delay } from "node:timers/promises";
import { MessageChannel } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { createDoorbells, Pump, type PumpKind } from "@hyperv-is/platform-node";
import { openFifo } from "./fifo.js";

const reason = process.platform === "linux" ? undefined : "files are watched by poll, on Linux";
if (reason !== undefined) console.log(`skipped: ${reason}`);

const kinds: readonly PumpKind[] = ["async", "blocking"];
/** By then a pump without work sleeps. */
const QUIET_MS = 150;
const openFiles = (): string[] => readdirSync("/proc/self/fd");

/** Nobody will write to it any more. */
function brokenFile(): number {
  const both = openFifo();
  const end = openSync(`/proc/self/fd/${both}`, constants.O_RDONLY | constants.O_NONBLOCK);
  closeSync(both);
  return end;
}

/** Ends a pump that hangs. @returns What says if that happened. */
function lateness(pump: Pump): () => boolean {
  let isLate = false;
  pump.timers.after(3_000, () => {
    isLate = true;
    pump.doorbell.requestStop();
  });
  return () => isLate;
}

describe.skipIf(reason !== undefined).each(kinds)(
  "a pump that is %s and watches a file",
  (kind) => {
    test("is not kept awake by one that is broken, nor by one that it watches no longer", async () => {
      const pump = new Pump(kind, createDoorbells(1)[0]!);
      const silent = openFifo();
      const loud = openFifo();
      writeSync(loud, "x");
      const unwatch = pump.watch(loud);
      pump.watch(silent);
      const broken = brokenFile();
      pump.watch(broken);
      unwatch();
      closeSync(loud);
      let looks = 0;
      pump.timers.after(100, () => pump.doorbell.requestStop());
      await pump.run({
        drain() {
          looks++;
          return false;
        },
      });
      expect(looks).toBeLessThan(50);
      closeSync(silent);
      closeSync(broken);
    });

    test("serves Node's events while it sleeps, and has promises go on before", async () => {
      const pump = new Pump(kind, createDoorbells(1)[0]!);
      const fd = openFifo();
      pump.watch(fd);
      const isLate = lateness(pump);
      let settle: () => void = () => undefined;
      const settled = new Promise<void>((resolve) => (settle = resolve));
      const came: string[] = [];
      const sees = (what: string): void => void came.push(what);
      const uses = async (): Promise<void> => {
        await settled.then(() => new Promise((resolve) => nextTick(resolve)));
        sees("a promise, and a tick of its");
        expect(pump.sleeps).toBe(1);
        await delay(5);
        sees("a timer");
        await readFile("/proc/self/stat");
        sees("a file");
        const { port1, port2 } = new MessageChannel();
        port1.postMessage(1);
        await once(port2, "message");
        port2.close();
        sees("a message");
        // The kernel is not asked about a new socket before Node has its turn.
        const server = createServer((socket) => socket.end("x")).listen(0);
        await once(server, "listening");
        const socket = connect((server.address() as AddressInfo).port);
        await once(socket.resume(), "close");
        server.close();
        sees("a socket");
        // Sleeps that are shorter than Node's timer do not put it off.
        const again = (): void => void pump.timers.after(10, again);
        again();
        await delay(40);
        sees("a timer behind short sleeps");
        pump.doorbell.requestStop();
      };
      const used = uses();
      // Node has nothing to serve then.
      pump.timers.after(5, () => undefined);
      let isSettled = false;
      await pump.run({
        drain() {
          if (isSettled || pump.sleeps === 0) return false;
          isSettled = true;
          settle();
          return true;
        },
      });
      expect(isLate()).toBe(false);
      await used;
      expect(came).toEqual([
        "a promise, and a tick of its",
        "a timer",
        "a file",
        "a message",
        "a socket",
        "a timer behind short sleeps",
      ]);
      closeSync(fd);
    });

    test("leaves no file open", async () => {
      const once = async (): Promise<void> => {
        const pump = new Pump(kind, createDoorbells(1)[0]!);
        const fd = openFifo();
        pump.watch(fd);
        pump.timers.after(5, () => pump.doorbell.requestStop());
        await pump.run({ drain: () => false });
        closeSync(fd);
      };
      // What a thread opens for all time is open after that.
      await once();
      const before = openFiles().length;
      for (let round = 0; round < 5; round++) await once();
      expect(openFiles().length).toBeLessThanOrEqual(before);
    });
  },
);

test.skipIf(reason !== undefined)(
  "an async pump hears of a file again after a turn from within an event has read it",
  async () => {
    const pump = new Pump("async", createDoorbells(1)[0]!, { spinLimitUs: 0 });
    const fd = openFifo();
    pump.watch(fd);
    const byte = new Uint8Array(1);
    const read: string[] = [];
    const readInTurn: string[] = [];
    // The pump sleeps, and gives way for it.
    setTimeout(() => {
      writeSync(fd, "1");
      pump.turnNow();
      readInTurn.push(...read);
      writeSync(fd, "2");
    }, 20);
    const isLate = lateness(pump);
    await pump.run({
      drain() {
        try {
          readSync(fd, byte);
        } catch {
          return false;
        }
        read.push(String.fromCharCode(byte[0]!));
        if (read.length === 2) pump.doorbell.requestStop();
        return true;
      },
    });
    expect({ isLate: isLate(), readInTurn, read }).toEqual({
      isLate: false,
      readInTurn: ["1"],
      read: ["1", "2"],
    });
    closeSync(fd);
  },
);

describe.skipIf(reason !== undefined).each(kinds)(
  "who watches a file of a pump that is %s",
  (kind) => {
    test("hears when it can be read, and of nothing else", async () => {
      const pump = new Pump(kind, createDoorbells(1)[0]!);
      const fd = openFifo();
      const other = openFifo();
      const heard: string[] = [];
      pump.watch(other, () => heard.push("other"));
      pump.watch(fd, () => heard.push("file"));
      // It is woken for nothing before.
      for (let at = 0; at < QUIET_MS; at += QUIET_MS / 15) pump.timers.after(at, () => undefined);
      let sleepsBefore = -1;
      pump.timers.after(QUIET_MS, () => {
        writeSync(fd, "x");
        sleepsBefore = pump.sleeps;
      });
      pump.timers.after(5_000, () => pump.doorbell.requestStop());
      await pump.run({
        drain() {
          if (heard.length > 0) pump.doorbell.requestStop();
          return false;
        },
      });
      expect(new Set(heard)).toEqual(new Set(["file"]));
      // It has not slept on beside what it could have read.
      expect(pump.sleeps - sleepsBefore).toBeLessThan(3);
      closeSync(fd);
      closeSync(other);
    });

    test.each([0, 200])(
      "hears when it can be written, if it asked for that (spin %i)",
      async (spinLimitUs) => {
        const pump = new Pump(kind, createDoorbells(1)[0]!, { spinLimitUs });
        const fd = openFifo();
        const filling = new Uint8Array(65_536);
        writeSync(fd, filling);
        let heard = 0;
        let isRead = false;
        pump.watch(fd, () => heard++);
        // It can be read all the time.
        pump.watchFor(fd, false, true);
        let heardBefore = 0;
        let sleepsBefore = 0;
        pump.timers.after(QUIET_MS, () => {
          heardBefore = heard;
          sleepsBefore = pump.sleeps;
          isRead = readSync(fd, filling) > 0;
        });
        let isLate = false;
        pump.timers.after(5_000, () => {
          isLate = true;
          pump.doorbell.requestStop();
        });
        await pump.run({
          drain() {
            if (isRead && heard > 0) pump.doorbell.requestStop();
            return false;
          },
        });
        expect({ heardBefore, isLate }).toEqual({ heardBefore: 0, isLate: false });
        expect(sleepsBefore).toBeLessThan(10);
        closeSync(fd);
      },
    );
  },
);

test.skipIf(reason !== undefined)(
  "a pump that watches a file looks for the answer that a drain has asked for before it sleeps",
  async () => {
    const pump = new Pump("async", createDoorbells(1)[0]!, { spinLimitUs: 20_000 });
    const fd = openFifo();
    pump.watch(fd);
    let looks = 0;
    let sleeps = 0;
    await pump.run({
      drain() {
        looks++;
        if (looks === 1) pump.turnNow();
        if (looks < 1000) return looks === 1;
        sleeps = pump.sleeps;
        pump.doorbell.requestStop();
        return true;
      },
    });
    expect(sleeps).toBe(0);
    closeSync(fd);
  },
);

test.skipIf(reason !== undefined)(
  "news of a file ends that look: whoever was answered may have asked for more",
  async () => {
    const pump = new Pump("async", createDoorbells(1)[0]!, { spinLimitUs: 200_000 });
    const fd = openFifo();
    let heard = 0;
    pump.watch(fd, () => heard++);
    let looks = 0;
    let sleeps: number | undefined;
    await pump.run({
      drain() {
        looks++;
        if (looks === 1) pump.turnNow();
        if (looks === 100) writeSync(fd, "x");
        if (heard === 0 && looks < 100_000) return looks === 1;
        sleeps = pump.sleeps;
        pump.doorbell.requestStop();
        return true;
      },
    });
    expect({ heard: heard > 0, sleeps }).toEqual({ heard: true, sleeps: 0 });
    closeSync(fd);
  },
);
