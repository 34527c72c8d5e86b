import { closeSync, readSync, writeSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { FileAlarm, createDoorbells, type Doorbell } from "../src/index.js";
import { openFifo } from "./fifo.js";

const reason =
  process.platform === "linux" ? undefined : "files are watched by poll, and tried on Linux";
if (reason !== undefined) console.log(`skipped: ${reason}`);

const cleanUps: (() => void)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp();
});

function fifo(): number {
  const fd = openFifo();
  cleanUps.push(() => closeSync(fd));
  return fd;
}

/** Keeps the event loop alive: a wait at a doorbell alone does not. */
async function awake<T>(work: Promise<T>): Promise<T> {
  const timer = setInterval(() => undefined, 1000);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}

/** Sleeps at the doorbell as a pump does. */
async function sleep(doorbell: Doorbell, alarm: FileAlarm, before: () => void): Promise<void> {
  const sequence = doorbell.arm();
  alarm.arm();
  before();
  await awake(doorbell.waitAsync(sequence));
  doorbell.disarm();
}

test.skipIf(reason !== undefined)(
  "an alarm rings when a file can be read, each time that it is armed",
  async () => {
    const files = [fifo(), fifo()];
    const [doorbell] = createDoorbells(1) as [Doorbell];
    const alarm = new FileAlarm(doorbell, files);
    const byte = new Uint8Array(1);
    for (const fd of [...files, ...files]) {
      await sleep(doorbell, alarm, () => void writeSync(fd, "x"));
      expect(readSync(fd, byte)).toBe(1);
    }
    // What came before it was armed counts as well.
    writeSync(files[0]!, "xy");
    await sleep(doorbell, alarm, () => undefined);
    await sleep(doorbell, alarm, () => undefined);
    await alarm.close();
  },
);

test.skipIf(reason !== undefined)("an alarm takes files in and out while it is there", async () => {
  const [first, second] = [fifo(), fifo()];
  const [doorbell] = createDoorbells(1) as [Doorbell];
  const alarm = new FileAlarm(doorbell, [first]);
  writeSync(first, "x");
  alarm.remove(first);
  const sequence = doorbell.arm();
  alarm.arm();
  // Though it is armed already.
  alarm.add(second);
  alarm.arm();
  expect(doorbell.arm()).toBe(sequence);
  writeSync(second, "x");
  await awake(doorbell.waitAsync(sequence));
  await alarm.close();
});

test.skipIf(reason !== undefined)(
  "an alarm that is not armed stays silent, and ends at once",
  async () => {
    const fd = fifo();
    const [doorbell] = createDoorbells(1) as [Doorbell];
    const alarm = new FileAlarm(doorbell, [fd]);
    await sleep(doorbell, alarm, () => void writeSync(fd, "x"));
    const sequence = doorbell.arm();
    doorbell.disarm();
    const before = performance.now();
    await alarm.close();
    // Far below the bound on how long it would wait by itself.
    expect(performance.now() - before).toBeLessThan(400);
    expect(doorbell.arm()).toBe(sequence);
  },
);
