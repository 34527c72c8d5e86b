import { closeSync, constants, openSync, readSync, readdirSync, writeSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { createDoorbells, Pump, type PumpKind } from "@hyperv-is/platform-node";
import { openFifo } from "./fifo.js";

const reason = process.platform === "linux" ? undefined : "files are watched by poll, on Linux";
if (reason !== undefined) console.log(`skipped: ${reason}`);

const kinds: readonly PumpKind[] = ["async", "blocking"];
const openFiles = (): string[] => readdirSync("/proc/self/fd");

/** Nobody will write to it any more. */
function brokenFile(): number {
  const both = openFifo();
  const end = openSync(`/proc/self/fd/${both}`, constants.O_RDONLY | constants.O_NONBLOCK);
  closeSync(both);
  return end;
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
    const [doorbell] = createDoorbells(1);
    const { words, index } = doorbell!;
    const pump = new Pump("async", doorbell!, { spinLimitUs: 0 });
    const fd = openFifo();
    pump.watch(fd);
    const byte = new Uint8Array(1);
    const read: string[] = [];
    let isTurn = false;
    const event = (): void => {
      if (pump.sleeps === 0) {
        setImmediate(event);
        return;
      }
      isTurn = true;
      pump.turnNow();
      writeSync(fd, "2");
    };
    setImmediate(event);
    let isLate = false;
    pump.timers.after(5_000, () => {
      isLate = true;
      doorbell!.requestStop();
    });
    await pump.run({
      drain() {
        if (isTurn && read.length === 0) {
          // The alarm rings while nobody is armed, and has nothing to say of the file any more.
          const sequence = Atomics.load(words, index);
          writeSync(fd, "1");
          while (Atomics.load(words, index) === sequence);
          // A ring looks for sleepers right behind that, and is to find none.
          for (const end = performance.now() + 5; performance.now() < end;);
        }
        try {
          readSync(fd, byte);
        } catch {
          return false;
        }
        read.push(String.fromCharCode(byte[0]!));
        if (read.length === 2) doorbell!.requestStop();
        return true;
      },
    });
    expect({ isLate, read }).toEqual({ isLate: false, read: ["1", "2"] });
    closeSync(fd);
  },
);
