// Entry of the thread that waits for files on behalf of another thread.
import { readSync } from "node:fs";
import { Doorbell } from "./doorbell.js";
import type { FileAlarmData } from "./file-alarm.js";
import { libc } from "./libc.js";
import { runWorker } from "./worker-body.js";

const POLLIN = 1;
/** A thread in a system call cannot be terminated: a program that ends in a hurry waits so long. */
const POLL_TIMEOUT_MS = 500;
/** A `struct pollfd` as 32-bit words, and as 16-bit ones: the file, what is waited for, what has come. */
const ENTRY_WORDS = 2;
const ENTRY_HALVES = 4;
const EVENTS = 2;
const RETURNED = 3;
/** What is not polled. */
const NO_FILE = -1;

await runWorker<FileAlarmData>("blocking", ({ data, doorbell: own }) => {
  const { fds, wakeFd, armed } = data;
  const owner = new Doorbell(data.words, data.index);
  const system = libc();
  const count = fds.length + 1;
  const files = new Int32Array(count * ENTRY_WORDS);
  const events = new Int16Array(files.buffer);
  const entries = new Uint8Array(files.buffer);
  for (const [entry, fd] of [wakeFd, ...fds].entries()) {
    files[entry * ENTRY_WORDS] = fd;
    events[entry * ENTRY_HALVES + EVENTS] = POLLIN;
  }
  const wakes = new Uint8Array(8);

  /** True if something has come at the entry. A file that is broken is not looked at again. */
  const take = (entry: number): boolean => {
    const at = entry * ENTRY_HALVES + RETURNED;
    const returned = events[at]!;
    events[at] = 0;
    if ((returned & ~POLLIN) !== 0) files[entry * ENTRY_WORDS] = NO_FILE;
    return returned !== 0;
  };

  return {
    drain() {
      while (!own.stopRequested) {
        const isArmed = Atomics.load(armed, 0) === 1;
        system.poll(entries, isArmed ? count : 1, POLL_TIMEOUT_MS);
        if (take(0)) readSync(wakeFd, wakes);
        let hasCome = false;
        for (let entry = 1; entry < count; entry++) hasCome = take(entry) || hasCome;
        if (!hasCome) continue;
        Atomics.store(armed, 0, 0);
        owner.ring();
      }
      return false;
    },
  };
});
