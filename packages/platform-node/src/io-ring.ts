import { FixedMemory } from "./fixed-memory.js";
import { libc, type LibC } from "./libc.js";
import { isWanted } from "./setting.js";

// Source: Linux include/uapi/linux/io_uring.h. The numbers of the calls are the same on all processors.

const IO_URING_SETUP = 425;
const IO_URING_ENTER = 426;
const IORING_ENTER_GETEVENTS = 1;
const IORING_OP_READ = 22;
const RWF_NOWAIT = 8;
/** Where the rings and the entries of the submission ring are, as offsets of mmap. */
const IORING_OFF_SQ_RING = 0;
const IORING_OFF_SQES = 0x1000_0000;
const IORING_FEAT_SINGLE_MMAP = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;
const EINTR = 4;

/** Byte offsets of a `struct io_uring_params`. */
const Params = { sqEntries: 0, cqEntries: 4, features: 20, sq: 40, cq: 80, SIZE: 120 } as const;
/** Of the offsets of the submission ring in it, and of the completion ring. */
const SqOffsets = { head: 0, tail: 4, array: 24 } as const;
const CqOffsets = { head: 0, tail: 4, cqes: 20 } as const;
/** 32-bit words of a `struct io_uring_sqe`, and of a `struct io_uring_cqe`. */
const Sqe = { opcode: 0, fd: 1, offset: 2, address: 4, length: 6, flags: 7, tag: 8, WORDS: 16 };
const Cqe = { tag: 0, result: 2, WORDS: 4 } as const;

const TWO_32 = 2 ** 32;

/** `IoRing.result` of a read whose data would have had to be waited for: `EAGAIN`. */
export const IO_NOT_CACHED = -11;
/** `IoRing.result` of a read that this file's system cannot promise not to wait for: `EOPNOTSUPP`. */
export const IO_UNSUPPORTED = -95;
/** `IoRing.result` of a read that the system did not take. */
const IO_NOT_DONE = -1;

interface RingMap {
  readonly address: number;
  readonly lengthBytes: number;
}

/** Both rings, and the entries of the one for submissions. */
type RingMaps = readonly [rings: RingMap, entries: RingMap];

/**
 * Reads of files that the system carries out together (io_uring): one system call for all that were added, which returns
 * once all have ended. What is in the page cache is copied within that call; what is not comes from the device for all of
 * them at a time. Nothing here allocates per read.
 */
export class IoRing {
  /** Reads that can be added before they are carried out. */
  readonly room: number;
  readonly #libc: LibC;
  readonly #fd: number;
  readonly #memory: FixedMemory;
  /** Of the memory, once more: a number of this size that a call returned would be put on the heap. */
  readonly #memoryAddress: number;
  readonly #maps: RingMaps;
  /** Both rings, and the entries of the one for submissions. */
  #ring: Int32Array;
  #entries: Int32Array;
  // Words of the rings.
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqes: number;
  readonly #sqMask: number;
  readonly #cqMask: number;
  readonly #results: Int32Array;
  /** Reads that were added. */
  #count = 0;

  /**
   * @param memory - What is read into; see `FixedMemory`. @param room - Reads that there is to be room for, at least.
   * @returns Undefined where there is no such ring: on other systems, without koffi, if the system's administrator does
   *   not allow it, which is usual in containers, or if `HYPERV_IS_IO_URING=off` says so.
   * @throws PlatformError `ERR_BAD_SETTING`
   */
  static open(memory: Uint8Array, room: number): IoRing | undefined {
    if (!isWanted("HYPERV_IS_IO_URING")) return undefined;
    let system: LibC;
    try {
      system = libc();
    } catch {
      return undefined;
    }
    const params = new FixedMemory(new Uint8Array(Params.SIZE));
    const fd = system.syscall(IO_URING_SETUP, room, params.address, 0, 0, 0, 0);
    if (fd < 0) return undefined;
    const words = new Uint32Array(params.bytes.buffer);
    const maps = mapRings(system, fd, words);
    if (maps !== undefined) return new IoRing(system, fd, words, maps, new FixedMemory(memory));
    system.close(fd);
    return undefined;
  }

  private constructor(
    system: LibC,
    fd: number,
    params: Uint32Array,
    maps: RingMaps,
    memory: FixedMemory,
  ) {
    const sqEntries = params[Params.sqEntries >>> 2]!;
    const cqEntries = params[Params.cqEntries >>> 2]!;
    const offset = (ring: number, field: number): number => params[(ring + field) >>> 2]!;
    const array = offset(Params.sq, SqOffsets.array);
    this.#libc = system;
    this.#fd = fd;
    this.#memory = memory;
    this.#memoryAddress = memory.address;
    this.room = sqEntries;
    this.#results = new Int32Array(sqEntries);
    this.#sqMask = sqEntries - 1;
    this.#cqMask = cqEntries - 1;
    this.#sqHead = offset(Params.sq, SqOffsets.head) >>> 2;
    this.#sqTail = offset(Params.sq, SqOffsets.tail) >>> 2;
    this.#cqHead = offset(Params.cq, CqOffsets.head) >>> 2;
    this.#cqTail = offset(Params.cq, CqOffsets.tail) >>> 2;
    this.#cqes = offset(Params.cq, CqOffsets.cqes) >>> 2;
    this.#maps = maps;
    this.#ring = new Int32Array(system.view(maps[0].address, maps[0].lengthBytes));
    this.#entries = new Int32Array(system.view(maps[1].address, maps[1].lengthBytes));
    // Entries are used in order, so each place of the ring names the entry of its own number for ever.
    for (let entry = 0; entry < sqEntries; entry++) this.#ring[(array >>> 2) + entry] = entry;
  }

  /**
   * Adds a read, for which there must be room.
   *
   * @param positionLow - Lower half of where it is in the file; both halves are 32 bits.
   * @param at - Where it goes in the memory.
   * @param onlyCached - Not to wait for data that are not in memory yet: see `IO_NOT_CACHED`.
   */
  add(
    fd: number,
    positionLow: number,
    positionHigh: number,
    at: number,
    lengthBytes: number,
    onlyCached: boolean,
  ): void {
    const index = this.#count;
    if (index >= this.room) throw new RangeError(`a ring has room for ${this.room} reads`);
    if (!(at >= 0 && lengthBytes >= 0 && at + lengthBytes <= this.#memory.bytes.byteLength))
      throw new RangeError(`${lengthBytes} bytes at ${at} are outside the memory`);
    const address = this.#memoryAddress + at;
    const entries = this.#entries;
    const entry = ((this.#ring[this.#sqTail]! + index) & this.#sqMask) * Sqe.WORDS;
    entries[entry + Sqe.opcode] = IORING_OP_READ;
    entries[entry + Sqe.fd] = fd;
    entries[entry + Sqe.offset] = positionLow;
    entries[entry + Sqe.offset + 1] = positionHigh;
    entries[entry + Sqe.address] = address | 0;
    entries[entry + Sqe.address + 1] = address / TWO_32;
    entries[entry + Sqe.length] = lengthBytes;
    entries[entry + Sqe.flags] = onlyCached ? RWF_NOWAIT : 0;
    entries[entry + Sqe.tag] = index;
    this.#results[index] = IO_NOT_DONE;
    this.#count++;
  }

  /** Carries out what was added, and returns once all of it has ended. `result` says how, until more is added. */
  carryOut(): void {
    const ring = this.#ring;
    let unsubmitted = this.#count;
    let pending = unsubmitted;
    this.#count = 0;
    Atomics.store(ring, this.#sqTail, (ring[this.#sqTail]! + unsubmitted) | 0);
    while (pending > 0) {
      const submitted = this.#libc.syscall(
        IO_URING_ENTER,
        this.#fd,
        unsubmitted,
        pending,
        IORING_ENTER_GETEVENTS,
        0,
        0,
      );
      if (submitted >= 0) unsubmitted -= submitted;
      else if (this.#libc.errno() !== EINTR && unsubmitted > 0) {
        // The system has no memory for more: those are not done. The others are waited for.
        Atomics.store(ring, this.#sqTail, Atomics.load(ring, this.#sqHead));
        pending -= unsubmitted;
        unsubmitted = 0;
      }
      pending -= this.#reap();
    }
  }

  /**
   * Bytes that a read of the last `carryOut` has read, fewer than asked at the end of the file or of what is cached; a
   * negative error number of the system if it failed.
   *
   * @param index - 0 for the one that was added first, and so on.
   */
  result(index: number): number {
    return this.#results[index]!;
  }

  /** Gives the ring back. Nothing may be added any more. */
  close(): void {
    this.#ring = this.#entries = new Int32Array(0);
    for (const { address, lengthBytes } of this.#maps) this.#libc.munmap(address, lengthBytes);
    this.#libc.close(this.#fd);
  }

  #reap(): number {
    const ring = this.#ring;
    const head = ring[this.#cqHead]!;
    const count = (Atomics.load(ring, this.#cqTail) - head) | 0;
    for (let index = 0; index < count; index++) {
      const at = this.#cqes + ((head + index) & this.#cqMask) * Cqe.WORDS;
      this.#results[ring[at + Cqe.tag]!] = ring[at + Cqe.result]!;
    }
    Atomics.store(ring, this.#cqHead, (head + count) | 0);
    return count;
  }
}

/** Maps what the ring shares with the system; undefined if it cannot be. */
function mapRings(system: LibC, fd: number, params: Uint32Array): RingMaps | undefined {
  if ((params[Params.features >>> 2]! & IORING_FEAT_SINGLE_MMAP) === 0) return undefined;
  const sqEntries = params[Params.sqEntries >>> 2]!;
  const cqEntries = params[Params.cqEntries >>> 2]!;
  const ringBytes = Math.max(
    params[(Params.sq + SqOffsets.array) >>> 2]! + sqEntries * 4,
    params[(Params.cq + CqOffsets.cqes) >>> 2]! + cqEntries * Cqe.WORDS * 4,
  );
  const map = (lengthBytes: number, at: number): RingMap => ({
    address: system.mmap(0, lengthBytes, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, at),
    lengthBytes,
  });
  const rings = map(ringBytes, IORING_OFF_SQ_RING);
  if (rings.address < 0) return undefined;
  const entries = map(sqEntries * Sqe.WORDS * 4, IORING_OFF_SQES);
  if (entries.address >= 0) return [rings, entries];
  system.munmap(rings.address, rings.lengthBytes);
  return undefined;
}
