import type { GpaRuns } from "@hyperv-is/vmbus-core";

/** One run of guest memory as a scatter list; filled again for every request. */
export class MemoryRun implements GpaRuns {
  readonly runs = 1;
  #address = 0;
  #lengthBytes = 0;

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  set(address: number, lengthBytes: number): void {
    this.#address = address;
    this.#lengthBytes = lengthBytes;
  }

  runAddress(): number {
    return this.#address;
  }

  runLength(): number {
    return this.#lengthBytes;
  }
}
