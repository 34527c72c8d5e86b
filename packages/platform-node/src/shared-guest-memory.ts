import { GuestMemory, ringCore, type WasmMemory } from "@hyperv-is/vmbus-core";
import { PlatformError } from "./errors.js";
import { isWanted } from "./setting.js";

export type { WasmMemory } from "@hyperv-is/vmbus-core";

/** Guest memory comes in whole pages of WebAssembly, in bytes. */
export const MEMORY_UNIT_BYTES = 65_536;

/**
 * Guest memory that every thread of the process can see.
 *
 * Its buffer is that of a WebAssembly.Memory, so that rings in it can be WebAssembly's work, and are unless
 * `HYPERV_IS_RING_CORE=off` says otherwise; it never grows. Send `wasm` to a worker (`workerData` shares it) and
 * wrap it there with `attachGuestMemory`.
 */
export class SharedGuestMemory extends GuestMemory {
  readonly wasm: WasmMemory;

  constructor(wasm: WasmMemory) {
    const core = isWanted("HYPERV_IS_RING_CORE") ? ringCore(wasm) : undefined;
    super(wasm.buffer, 0, wasm.buffer.byteLength, core);
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

/**
 * The memory that another thread made, from what it sent: the WebAssembly.Memory or its buffer. Of a buffer alone
 * rings are TypeScript's work.
 */
export function attachGuestMemory(source: WasmMemory): SharedGuestMemory;
export function attachGuestMemory(source: ArrayBufferLike): GuestMemory;
export function attachGuestMemory(source: WasmMemory | ArrayBufferLike): GuestMemory {
  return "buffer" in source ? new SharedGuestMemory(source) : new GuestMemory(source);
}
