import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { BootError } from "../boot-error.js";

/** A part of guest memory: bytes, whole pages. */
export interface MemoryRange {
  readonly address: number;
  readonly lengthBytes: number;
}

/** Who owns which part of guest memory. */
export interface MemoryLayout {
  /** The arena of each CPU, by number. */
  readonly arenas: readonly MemoryRange[];
  /** For the console's programs and their buffers. */
  readonly programs: MemoryRange;
}

const MEGABYTE = 2 ** 20;
const MIN_MEMORY_BYTES = 32 * MEGABYTE;
const MAX_MEMORY_BYTES = 4096 * MEGABYTE;
/** Room for the buffers of a queue to each of four controllers. */
const MIN_ARENA_BYTES = 2 * MEGABYTE;
/** The first pages stay unused, so that an address of 0 is always a mistake. */
const UNUSED_BYTES = 64 * 1024;

/**
 * Divides guest memory: with one CPU half of it for that and half for programs; with several a quarter for
 * programs, a quarter for the boot processor, which has the rings of all channels, and the rest for the others.
 *
 * Throws `ERR_MEMORY` if there is too little, too much, or a part of a MiB.
 */
export function layoutMemory(memoryBytes: number, cpus: number): MemoryLayout {
  const fits = memoryBytes >= MIN_MEMORY_BYTES && memoryBytes <= MAX_MEMORY_BYTES;
  if (!fits || memoryBytes % MEGABYTE !== 0)
    throw new BootError(
      "ERR_MEMORY",
      `${memoryBytes} bytes of memory: it must be whole MiB, from 32M to 4096M`,
    );
  const others = cpus - 1;
  if (others > 0 && memoryBytes / 2 / others < MIN_ARENA_BYTES)
    throw new BootError(
      "ERR_MEMORY",
      `${memoryBytes / MEGABYTE}M of memory: ${cpus} CPUs need at least ${(2 * others * MIN_ARENA_BYTES) / MEGABYTE}M`,
    );
  const part = others === 0 ? memoryBytes / 2 : memoryBytes / 4;
  const boot = { address: UNUSED_BYTES, lengthBytes: part - UNUSED_BYTES };
  const programs = { address: part, lengthBytes: part };
  const each = others === 0 ? 0 : Math.floor(memoryBytes / 2 / others / PAGE_SIZE) * PAGE_SIZE;
  const arenas = Array.from({ length: others }, (_, index) => ({
    address: 2 * part + index * each,
    lengthBytes: each,
  }));
  return { arenas: [boot, ...arenas], programs };
}
