// Opens a ring where there is no room for its maps: for none of them, then for the first and not for the second.
// Prints for each whether there is a ring, and what of it is left; then whether there is one when there is room.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import koffi from "koffi";
import { createGuestMemory, IoRing } from "@hyperv-is/platform-node";

const RLIMIT_AS = 9;
/** What three rings take together is well below what a user may lock, 8 MiB: the system frees them some time after they are closed. */
const ENTRIES = 8192;
/** Bytes of the map of both rings, which that of the entries exceeds: 64 for each of them. */
const ringBytes = ENTRIES * 4 + ENTRIES * 2 * 16;

const memory = createGuestMemory(1 << 20).bytes;
const prlimit = koffi
  .load("libc.so.6")
  .func("int prlimit(int pid, int resource, const uint64_t *limit, void *old)");
/** @param {number | bigint} bytes */
const limitTo = (bytes) => {
  if (prlimit(0, RLIMIT_AS, [bytes, 2n ** 64n - 1n], null) !== 0) throw new Error("no limit");
};
const usedBytes = () => Number(readFileSync("/proc/self/statm", "latin1").split(" ")[0]) * 4096;

/** Names of the files of rings that this process has open, and how many of them are mapped. */
function left() {
  const files = readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      // That of the directory itself.
      return [];
    }
  });
  /** @param {string} text */
  const isRing = (text) => text.includes("[io_uring]");
  const maps = readFileSync("/proc/self/maps", "latin1").split("\n");
  return [files.filter(isRing).length, maps.filter(isRing).length];
}

/** @param {number} roomBytes */
function open(roomBytes) {
  limitTo(usedBytes() + roomBytes);
  const ring = IoRing.open(memory, ENTRIES);
  limitTo(2n ** 64n - 1n);
  const found = { isOpen: ring !== undefined, left: left() };
  ring?.close();
  return found;
}

// Everything that is needed on the way has its memory before there is a limit.
IoRing.open(memory, 1)?.close();
limitTo(2n ** 64n - 1n);
const none = open(ringBytes >> 1);
const first = open(ringBytes + ENTRIES * 32);
const both = open(ringBytes * 16);
console.log(JSON.stringify([none, first, both, left()]));
