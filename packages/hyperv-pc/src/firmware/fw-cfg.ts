/** Ports of the interface by which firmware asks its machine: an index is written, its value read byte by byte. */
export const FwCfgPort = { selector: 0x510, data: 0x511 } as const;

/** Indices with a meaning of their own; files follow from `firstFile` on. */
const Index = {
  signature: 0x00,
  id: 0x01,
  processorCount: 0x05,
  processorLimit: 0x0f,
  fileDirectory: 0x19,
  firstFile: 0x20,
} as const;

/** A directory entry: size and index big-endian, a reserved half word, the name. */
const ENTRY_BYTES = 64;
const NAME_OFFSET = 8;

/** Says "QEMU": firmware looks for files only then. */
const SIGNATURE = [0x51, 0x45, 0x4d, 0x55];

/** A file that firmware may read. */
export interface FirmwareFile {
  /** Such as `acpi/vmbus.aml`; at most 55 characters. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

/**
 * The firmware configuration interface (fw_cfg), as far as SeaBIOS reads it through I/O ports. An index
 * that is not there reads as zeros, which firmware takes for "nothing".
 *
 * Layout: QEMU's `docs/specs/fw_cfg.rst`.
 */
export class FwCfg {
  readonly #values = new Map<number, Uint8Array>();
  #value: Uint8Array = new Uint8Array(0);
  #position = 0;

  constructor(files: readonly FirmwareFile[]) {
    this.#values.set(Index.signature, new Uint8Array(SIGNATURE));
    // Bit 0: files; no bit 1: no DMA.
    this.#values.set(Index.id, new Uint8Array([1, 0, 0, 0]));
    this.#values.set(Index.processorCount, new Uint8Array([1, 0]));
    this.#values.set(Index.processorLimit, new Uint8Array([1, 0]));
    this.#values.set(Index.fileDirectory, directory(files));
    for (const [number, { bytes }] of files.entries())
      this.#values.set(Index.firstFile + number, bytes);
  }

  /** A write to the selector port. */
  select(index: number): void {
    this.#value = this.#values.get(index) ?? new Uint8Array(0);
    this.#position = 0;
  }

  /** A read of the data port. */
  read(): number {
    return this.#value[this.#position++] ?? 0;
  }
}

function directory(files: readonly FirmwareFile[]): Uint8Array {
  const bytes = new Uint8Array(4 + files.length * ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, files.length);
  for (const [number, { name, bytes: content }] of files.entries()) {
    if (name.length >= ENTRY_BYTES - NAME_OFFSET)
      throw new RangeError(`${name}: too long for a firmware file`);
    const at = 4 + number * ENTRY_BYTES;
    view.setUint32(at, content.byteLength);
    view.setUint16(at + 4, Index.firstFile + number);
    bytes.set(new TextEncoder().encode(name), at + NAME_OFFSET);
  }
  return bytes;
}
