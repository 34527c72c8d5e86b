import { type DiskBackend, READ_ONLY_CODE } from "./disk-backend.js";

const pageBytes = 4096;
/** What a page that was never written holds. To copy it is quicker than `fill`, in memory that is shared. */
const zeroPage = new Uint8Array(pageBytes);

/** How a RAM disk is made. */
export interface RamDiskOptions {
  /** A multiple of `logicalSectorBytes`, above 0. */
  readonly sizeBytes: number;
  /** 16 bytes by which the guest tells disks apart. */
  readonly identity: Uint8Array;
  /** 512 (the default) or 4096. */
  readonly logicalSectorBytes?: number;
  /** 512 or 4096 (the default), not below the logical sector. */
  readonly physicalSectorBytes?: number;
  readonly readOnly?: boolean;
}

/**
 * A disk in memory. It takes room only for the pages of 4096 bytes that were written, so a disk of terabytes
 * costs nothing until it is used; UNMAP gives whole pages back. Everything is as durable as the process.
 */
export class RamDisk implements DiskBackend {
  readonly readOnly: boolean;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
  readonly identity: Uint8Array;
  #sizeBytes: number;
  readonly #pages = new Map<number, Uint8Array>();

  constructor(options: RamDiskOptions) {
    this.readOnly = options.readOnly ?? false;
    this.logicalSectorBytes = options.logicalSectorBytes ?? 512;
    this.physicalSectorBytes = options.physicalSectorBytes ?? 4096;
    this.identity = options.identity.slice();
    this.#sizeBytes = options.sizeBytes;
    for (const sectorBytes of [this.logicalSectorBytes, this.physicalSectorBytes])
      if (sectorBytes !== 512 && sectorBytes !== 4096)
        throw new RangeError(`a sector has 512 or 4096 bytes, not ${sectorBytes}`);
    if (this.physicalSectorBytes < this.logicalSectorBytes)
      throw new RangeError("a physical sector is not smaller than a logical one");
    if (this.identity.byteLength !== 16) throw new RangeError("an identity has 16 bytes");
    this.#checkSize(options.sizeBytes);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Bytes of memory that the written pages take. */
  get allocatedBytes(): number {
    return this.#pages.size * pageBytes;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#checkTransfer(position, target, targetOffset, lengthBytes);
    const end = position + lengthBytes;
    for (let at = position, to = targetOffset; at < end;) {
      const start = at % pageBytes;
      const length = Math.min(pageBytes - start, end - at);
      const page = this.#pages.get((at - start) / pageBytes) ?? zeroPage;
      // Without a view for the usual whole page.
      if (length === pageBytes) target.set(page, to);
      else target.set(page.subarray(start, start + length), to);
      at += length;
      to += length;
    }
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    if (this.readOnly) throw readOnlyError();
    this.#checkTransfer(position, source, sourceOffset, lengthBytes);
    const end = position + lengthBytes;
    for (let at = position, from = sourceOffset; at < end;) {
      const start = at % pageBytes;
      const length = Math.min(pageBytes - start, end - at);
      const index = (at - start) / pageBytes;
      let page = this.#pages.get(index);
      if (page === undefined) {
        page = new Uint8Array(pageBytes);
        this.#pages.set(index, page);
      }
      page.set(source.subarray(from, from + length), start);
      at += length;
      from += length;
    }
  }

  flush(): void {
    // Memory has no cache in front of it.
  }

  /** Whole pages read as zero afterwards; the rest of the range is left alone. */
  unmap(position: number, lengthBytes: number): void {
    if (this.readOnly) throw readOnlyError();
    this.#checkRange(position, lengthBytes);
    const first = Math.ceil(position / pageBytes);
    const end = Math.floor((position + lengthBytes) / pageBytes);
    this.#drop(first, end);
  }

  nextData(position: number): number {
    this.#checkRange(position, 0);
    const first = Math.floor(position / pageBytes);
    if (this.#pages.has(first)) return position;
    let next = Infinity;
    // Over whichever is shorter, as in `#drop`.
    const pages = Math.ceil(this.#sizeBytes / pageBytes);
    if (pages - first <= this.#pages.size) {
      for (let index = first + 1; index < pages && next === Infinity; index++)
        if (this.#pages.has(index)) next = index;
    } else {
      for (const index of this.#pages.keys()) if (index > first && index < next) next = index;
    }
    return Math.min(next * pageBytes, this.#sizeBytes);
  }

  nextHole(position: number): number {
    this.#checkRange(position, 0);
    const first = Math.floor(position / pageBytes);
    let index = first;
    while (this.#pages.has(index)) index++;
    return index === first ? position : Math.min(index * pageBytes, this.#sizeBytes);
  }

  /** Makes the disk larger or smaller; what is cut off is lost, what is added reads as zero. */
  resize(sizeBytes: number): void {
    this.#checkSize(sizeBytes);
    this.#sizeBytes = sizeBytes;
    this.#drop(Math.ceil(sizeBytes / pageBytes), Infinity);
    this.#pages.get(Math.floor(sizeBytes / pageBytes))?.fill(0, sizeBytes % pageBytes);
  }

  #drop(first: number, end: number): void {
    // Over whichever is shorter: a range can span terabytes, and a disk can hold many pages.
    if (end - first <= this.#pages.size) {
      for (let index = first; index < end; index++) this.#pages.delete(index);
      return;
    }
    for (const index of this.#pages.keys())
      if (index >= first && index < end) this.#pages.delete(index);
  }

  #checkSize(sizeBytes: number): void {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % this.logicalSectorBytes)
      throw new RangeError(`${sizeBytes} bytes are not one or more whole sectors`);
  }

  #checkRange(position: number, lengthBytes: number): void {
    if (position % this.logicalSectorBytes || lengthBytes % this.logicalSectorBytes)
      throw new RangeError("position and length are not whole sectors");
    if (!(position >= 0 && lengthBytes >= 0 && position + lengthBytes <= this.#sizeBytes))
      throw new RangeError("the range is not inside the disk");
  }

  #checkTransfer(
    position: number,
    array: Uint8Array,
    arrayOffset: number,
    lengthBytes: number,
  ): void {
    this.#checkRange(position, lengthBytes);
    if (!(arrayOffset >= 0 && arrayOffset + lengthBytes <= array.byteLength))
      throw new RangeError("the range does not fit into the array");
  }
}

function readOnlyError(): Error {
  return Object.assign(new Error("this RAM disk is read-only"), { code: READ_ONLY_CODE });
}
