import { GuestMemory } from "@hyperv-is/vmbus-core";
import { PlatformError } from "./errors.js";

/** Guest memory comes in whole pages of WebAssembly, in bytes. */
export const MEMORY_UNIT_BYTES = 65_536;

/**
 * A `WebAssembly.Memory`, by the part of its shape that is used: a name of our own, because programs without
 * the DOM library have no declaration of the real one.
 */
export interface WasmMemory {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
}

/**
 * Guest memory that every thread of the process can see.
 *
 * Its buffer is that of a WebAssembly.Memory, so that a WebAssembly ring core can work on it too; it never
 * grows. Send `wasm` to a worker (`workerData` shares it) and wrap it there with `attachGuestMemory`.
 */
export class SharedGuestMemory extends GuestMemory {
  readonly wasm: WasmMemory;

  constructor(wasm: WasmMemory) {
    super(wasm.buffer);
    this.wasm = wasm;
  }
}

/**
 * Makes zeroed guest memory. The system commits a page when it is first touched.
 *
 * @param sizeBytes - a multiple of `MEMORY_UNIT_BYTES`, up to 4 GiB.
 * @throws PlatformError `ERR_MEMORY_UNAVAILABLE` when so much cannot be had.
 */
export function createGuestMemory(sizeBytes: number): SharedGuestMemory {
  const units = sizeBytes / MEMORY_UNIT_BYTES;
  if (!Number.isInteger(units) || units < 1 || units > 65_536)
    throw new RangeError("guest memory is a multiple of 64 KiB, at most 4 GiB");
  let wasm: WasmMemory;
  try {
    wasm = new WebAssembly.Memory({ initial: units, maximum: units, shared: true });
  } catch (cause) {
    throw new PlatformError(
      "ERR_MEMORY_UNAVAILABLE",
      `this process cannot have ${sizeBytes / 2 ** 20} MiB of memory for the guest: ` +
        "give the guest less, or raise the limit on address space (ulimit -v)",
      { cause },
    );
  }
  return new SharedGuestMemory(wasm);
}

/** The memory that another thread made, from what it sent: the WebAssembly.Memory or its buffer. */
export function attachGuestMemory(source: WasmMemory): SharedGuestMemory;
export function attachGuestMemory(source: ArrayBufferLike): GuestMemory;
export function attachGuestMemory(source: WasmMemory | ArrayBufferLike): GuestMemory {
  return "buffer" in source ? new SharedGuestMemory(source) : new GuestMemory(source);
}
