import wasm from "./ring-core.wat";

/**
 * A `WebAssembly.Memory`, by the part of its shape that is used: a name of our own, because programs without
 * the DOM library have no declaration of the real one.
 */
export interface WasmMemory {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
}

/**
 * What rings and copies do in WebAssembly where guest memory allows it; `ring-core.wat` is the source.
 *
 * Numbers are taken modulo 2^32. A caller passes addresses through `| 0`, since a number that is no small
 * integer can cost an object per call.
 */
export interface RingCore {
  /** Copies between ranges of guest memory that do not overlap. */
  copy(to: number, from: number, lengthBytes: number): void;
  /** Writes a packet that lies in one piece at `at`. */
  put(
    at: number,
    first: number,
    second: number,
    idLow: number,
    idHigh: number,
    from: number,
    lengthBytes: number,
    start: number,
  ): void;
  /**
   * Copies a packet's payload, or the first `capacityBytes` of it, out of a ring, and sees to it that small packets
   * further on are near. `availableBytes` lie in one piece from the packet's start on.
   */
  copyAhead(
    to: number,
    from: number,
    lengthBytes: number,
    capacityBytes: number,
    availableBytes: number,
  ): void;
  /** As `Atomics.load` of the word at a GPA, in a third of its time. */
  load(at: number): number;
  /** As `Atomics.store` of the word at a GPA. */
  store(at: number, value: number): void;
  /** Stores the write index, then loads the interrupt mask. */
  publishWriteIndex(control: number, index: number): number;
  /** Stores the read index, then loads the pending send size. */
  publishReadIndex(control: number, index: number): number;
}

/** One instance for each memory: calls of functions that are always the same ones cost half as much. */
const cores = new WeakMap<WasmMemory, RingCore>();
let module: WebAssembly.Module | undefined;

/**
 * The core for a guest's memory, which is shared and begins at GPA 0.
 *
 * @returns Undefined where it cannot be had: the memory is not a shared WebAssembly.Memory, or the engine has no
 *   WebAssembly, forbids it, or lacks its threads or vectors. Rings then do all in TypeScript.
 */
export function ringCore(memory: WasmMemory): RingCore | undefined {
  const known = cores.get(memory);
  if (known !== undefined) return known;
  try {
    module ??= new WebAssembly.Module(wasm);
    const instance = new WebAssembly.Instance(module, { guest: { memory } });
    const core = { ...instance.exports } as unknown as RingCore;
    cores.set(memory, core);
    return core;
  } catch {
    return undefined;
  }
}
