import type { GpaRuns, GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { Prng } from "@hyperv-is/conformance";

/** What lies around the data; no stamp begins with it. */
const MARGIN = 0xa5;

const margins = new Uint8Array(1 << 20).fill(MARGIN);

/** How the runs of a buffer lie. */
const shapes = ["one run", "whole pages", "anything"] as const;

/**
 * Memory of one request as a random scatter list, with margins that nobody may touch: one run at any byte,
 * pages in any order, or pieces of any length at any byte.
 */
export class ScatterBuffer implements GpaRuns {
  readonly lengthBytes: number;
  readonly #memory: GuestMemory;
  readonly #address: number;
  readonly #sizeBytes: number;
  readonly #runs: { readonly address: number; readonly length: number }[] = [];

  /** Undefined when there is no memory left. */
  static make(
    memory: GuestMemory,
    allocator: PageAllocator,
    prng: Prng,
    lengthBytes: number,
  ): ScatterBuffer | undefined {
    const pages = Math.ceil(lengthBytes / PAGE_SIZE);
    const shape = prng.pick(shapes);
    const all = shape === "anything" ? 3 * pages + 6 : pages + 2;
    const address = allocator.allocate(all);
    if (address === undefined) return undefined;
    return new ScatterBuffer(memory, prng, lengthBytes, shape, address, all * PAGE_SIZE);
  }

  private constructor(
    memory: GuestMemory,
    prng: Prng,
    lengthBytes: number,
    shape: (typeof shapes)[number],
    address: number,
    sizeBytes: number,
  ) {
    this.#memory = memory;
    this.lengthBytes = lengthBytes;
    this.#address = address;
    this.#sizeBytes = sizeBytes;
    memory.bytes.fill(MARGIN, address, address + sizeBytes);
    const pages = Math.ceil(lengthBytes / PAGE_SIZE);
    if (shape === "one run")
      this.#runs.push({
        address: address + PAGE_SIZE * prng.below(2) + prng.below(PAGE_SIZE),
        length: lengthBytes,
      });
    else if (shape === "whole pages") this.#scatterPages(prng, pages);
    else this.#scatterPieces(prng);
  }

  get runs(): number {
    return this.#runs.length;
  }

  runAddress(index: number): number {
    return this.#runs[index]!.address;
  }

  runLength(index: number): number {
    return this.#runs[index]!.length;
  }

  /** Puts data into the runs. */
  put(data: Uint8Array): void {
    let at = 0;
    for (const { address, length } of this.#runs) {
      this.#memory.bytes.set(data.subarray(at, at + length), address);
      at += length;
    }
  }

  /** A copy of what is in the runs. Throws if anything around them changed. */
  take(): Uint8Array {
    const { bytes } = this.#memory;
    const data = new Uint8Array(this.lengthBytes);
    let at = 0;
    for (const { address, length } of this.#runs) {
      data.set(bytes.subarray(address, address + length), at);
      bytes.fill(MARGIN, address, address + length);
      at += length;
    }
    const all = bytes.subarray(this.#address, this.#address + this.#sizeBytes);
    if (Buffer.compare(all, margins.subarray(0, all.byteLength)) !== 0)
      throw new Error(`memory around a request at 0x${this.#address.toString(16)} was changed`);
    return data;
  }

  /** Gives the memory back. @param safe - False if the host may still use it: then it is used no more. */
  free(allocator: PageAllocator, safe: boolean): void {
    if (safe) allocator.free(this.#address);
    else allocator.leak(this.#address);
  }

  #scatterPages(prng: Prng, pages: number): void {
    const order = Array.from({ length: pages }, (_, page) => page);
    for (let at = pages - 1; at > 0; at--) {
      const other = prng.below(at + 1);
      [order[at], order[other]] = [order[other]!, order[at]!];
    }
    let left = this.lengthBytes;
    for (const page of order) {
      const length = Math.min(PAGE_SIZE, left);
      this.#runs.push({ address: this.#address + PAGE_SIZE * (page + 1), length });
      left -= length;
    }
  }

  #scatterPieces(prng: Prng): void {
    let left = this.lengthBytes;
    let room = this.#sizeBytes - left;
    let address = this.#address;
    while (left > 0) {
      const gap = prng.below(Math.min(room, 3000) + 1);
      const length = this.#runs.length > 40 ? left : 1 + prng.below(Math.min(left, 6000));
      this.#runs.push({ address: address + gap, length });
      address += gap + length;
      room -= gap;
      left -= length;
    }
  }
}
