import { type AsyncFile, type Ended } from "../src/block-file.js";
import { type MemoryFile } from "./memory-file.js";

/** One call on its way: first it takes effect, some time later it ends. */
interface Call {
  takeEffect: (() => void) | undefined;
  error: unknown;
  readonly ended: Ended;
}

/**
 * The calls of a file in memory that end later: nothing happens by itself, and `step` lets one of them, whichever it is told,
 * take effect or end. A flush covers what had taken effect when it was called, and nothing more.
 */
export class LaterCalls implements AsyncFile {
  readonly #file: MemoryFile;
  readonly #calls: Call[] = [];

  constructor(file: MemoryFile) {
    this.#file = file;
  }

  /** Calls that have not ended. */
  get count(): number {
    return this.#calls.length;
  }

  read(position: number, targets: readonly Uint8Array[], ended: Ended): void {
    this.#begin(ended, () => {
      let at = position;
      for (const target of targets) {
        this.#file.read(at, target, 0, target.byteLength);
        at += target.byteLength;
      }
    });
  }

  write(position: number, sources: readonly Uint8Array[], ended: Ended): void {
    this.#begin(ended, () => {
      const bytes = Buffer.concat(sources);
      this.#file.write(position, bytes, 0, bytes.byteLength);
    });
  }

  flush(ended: Ended): void {
    const call = this.#begin(ended, () => this.#file.flush());
    this.#takeEffect(call);
  }

  /** Lets a call, picked by `below(n)` of 0 to n - 1, take its next step. */
  step(below: (limit: number) => number): void {
    const index = below(this.#calls.length);
    const call = this.#calls[index]!;
    if (call.takeEffect !== undefined) {
      this.#takeEffect(call);
      return;
    }
    this.#calls.splice(index, 1);
    call.ended(call.error);
  }

  /** Lets all calls end, and those that they bring about, oldest first. */
  finish(): void {
    while (this.count > 0) this.step(() => 0);
  }

  #begin(ended: Ended, takeEffect: () => void): Call {
    const call: Call = { takeEffect, error: undefined, ended };
    this.#calls.push(call);
    return call;
  }

  #takeEffect(call: Call): void {
    try {
      call.takeEffect?.();
    } catch (error) {
      call.error = error;
    }
    call.takeEffect = undefined;
  }
}
