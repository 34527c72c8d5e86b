import { libc } from "./libc.js";

/** Memory that does not move, and where it is: what pieces of frames are counted from. */
export class FixedMemory {
  readonly bytes: Uint8Array;
  /** In the process. */
  readonly address: number;

  /**
   * @param bytes - Its buffer must not be detached or grow while this is in use.
   * @throws PlatformError `ERR_KOFFI_MISSING`.
   */
  constructor(bytes: Uint8Array) {
    // The view is kept for its memory to stay, and made from the buffer: small arrays without one move.
    this.bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.address = libc().addressOf(this.bytes);
  }

  /** The address of a position, which is checked: the kernel would read and write anywhere. */
  addressOf(at: number, lengthBytes: number): number {
    if (!(at >= 0 && lengthBytes >= 0 && at + lengthBytes <= this.bytes.byteLength))
      throw new RangeError(`${lengthBytes} bytes at ${at} are outside the memory`);
    return this.address + at;
  }
}
