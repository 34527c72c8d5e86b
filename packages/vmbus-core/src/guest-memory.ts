import { PAGE_SIZE } from "./protocol/index.js";
import type { RingCore } from "./ring/ring-core.js";

/**
 * Guest physical memory: one buffer, addressed by guest physical address (GPA).
 *
 * The views below begin at GPA 0, so `bytes[gpa]`, `words[gpa >>> 2]` and `quads[gpa / 8]` are that
 * address. They are made once; a hot path indexes them and makes no view of its own. The buffer may be
 * shared (workers) or not (one thread, or an emulator's heap), and GPA 0 may lie at an offset in it.
 */
export class GuestMemory {
  readonly buffer: ArrayBufferLike;
  /** Byte offset of GPA 0 in `buffer`; a multiple of 8. */
  readonly byteOffset: number;
  /** Size of guest memory: a multiple of the page size, at most 4 GiB. */
  readonly sizeBytes: number;
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly quads: BigUint64Array;
  readonly view: DataView;
  /** What rings in this memory do in WebAssembly; they do all in TypeScript without it. */
  readonly ringCore: RingCore | undefined;

  /** @param ringCore - Made by the function of that name for a memory that is all of `buffer`. */
  constructor(
    buffer: ArrayBufferLike,
    byteOffset = 0,
    sizeBytes = buffer.byteLength - byteOffset,
    ringCore?: RingCore,
  ) {
    if (byteOffset % 8 !== 0) throw new RangeError("guest memory must start at a multiple of 8");
    if (sizeBytes % PAGE_SIZE !== 0 || sizeBytes <= 0 || sizeBytes > 2 ** 32)
      throw new RangeError("guest memory must be whole pages, at most 4 GiB");
    this.buffer = buffer;
    this.byteOffset = byteOffset;
    this.sizeBytes = sizeBytes;
    this.bytes = new Uint8Array(buffer, byteOffset, sizeBytes);
    this.words = new Int32Array(buffer, byteOffset, sizeBytes / 4);
    this.quads = new BigUint64Array(buffer, byteOffset, sizeBytes / 8);
    this.view = new DataView(buffer, byteOffset, sizeBytes);
    this.ringCore = ringCore;
  }

  /** True if the whole range lies in guest memory; any numbers may be asked about. */
  contains(address: number, lengthBytes: number): boolean {
    return (
      address >= 0 &&
      lengthBytes >= 0 &&
      address <= this.sizeBytes &&
      lengthBytes <= this.sizeBytes - address
    );
  }

  /** A private copy of a range that the caller has checked. */
  copyOut(address: number, lengthBytes: number): Uint8Array {
    const copy = new Uint8Array(lengthBytes);
    copy.set(this.bytes.subarray(address, address + lengthBytes));
    return copy;
  }

  /** Zeroes a range that the caller has checked. */
  clear(address: number, lengthBytes: number): void {
    this.bytes.fill(0, address, address + lengthBytes);
  }
}
