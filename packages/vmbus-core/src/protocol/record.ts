import { GUID_SIZE, readGuid, writeGuid, type Guid } from "./guid.js";

/** One field of a structure: where it lies, and how its value is read and written. */
export interface Field<T> {
  /** Bytes from the start of the structure. */
  readonly offset: number;
  /** Bytes on the wire. */
  readonly width: number;
  read(view: DataView): T;
  write(view: DataView, value: T): void;
}

/** The fields of a structure by name. */
export type Fields = Readonly<Record<string, Field<unknown>>>;

/** The plain object that a structure with these fields is parsed into. */
export type RecordOf<F extends Fields> = {
  readonly [Name in keyof F]: F[Name] extends Field<infer T> ? T : never;
};

/**
 * A structure on the wire: its size, its fields, and both directions between bytes and a plain object.
 *
 * For control paths: every call makes an object. All integers are little-endian; bytes that no field
 * names are reserved, written as zero and ignored on reading.
 */
export interface WireRecord<T> {
  /** Bytes of the structure. */
  readonly SIZE: number;
  /** Where each field lies, for code that accesses memory in place. */
  readonly fields: { readonly [Name in keyof T]: Field<T[Name]> };
  /** Copies the structure out of the first bytes of `bytes`; undefined if fewer than `SIZE` are there. */
  parse(bytes: Uint8Array): T | undefined;
  /** The structure as new bytes. Throws a RangeError if a value does not fit its field. */
  emit(value: T): Uint8Array<ArrayBuffer>;
  /** The same into the first `SIZE` bytes of `bytes`; throws a RangeError if there are fewer. */
  write(bytes: Uint8Array, value: T): void;
}

/** Defines a structure. `size` is given only if reserved bytes follow the last field. */
export function record<F extends Fields>(fields: F, size = 0): WireRecord<RecordOf<F>> {
  const entries = Object.entries(fields);
  const SIZE = entries.reduce((end, [, field]) => Math.max(end, field.offset + field.width), size);
  const write = (bytes: Uint8Array, value: RecordOf<F>): void => {
    if (bytes.byteLength < SIZE)
      throw new RangeError(`${SIZE} bytes do not fit into ${bytes.byteLength}`);
    bytes.fill(0, 0, SIZE);
    const view = new DataView(bytes.buffer, bytes.byteOffset, SIZE);
    for (const [name, field] of entries) {
      try {
        field.write(view, value[name]);
      } catch (cause) {
        throw new RangeError(`field ${name}: ${(cause as Error).message}`, { cause });
      }
    }
  };
  return {
    SIZE,
    fields: fields as unknown as WireRecord<RecordOf<F>>["fields"],
    parse(bytes) {
      if (bytes.byteLength < SIZE) return undefined;
      const view = new DataView(bytes.buffer, bytes.byteOffset, SIZE);
      const values = entries.map(([name, field]) => [name, field.read(view)] as const);
      return Object.fromEntries(values) as RecordOf<F>;
    },
    emit(value) {
      const bytes = new Uint8Array(SIZE);
      write(bytes, value);
      return bytes;
    },
    write,
  };
}

function unsigned(value: number, bits: number): number {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** bits)
    throw new RangeError(`${value} is not an unsigned integer of ${bits} bits`);
  return value;
}

/** An unsigned 8-bit integer. */
export function u8(offset: number): Field<number> {
  return {
    offset,
    width: 1,
    read: (view) => view.getUint8(offset),
    write: (view, value) => view.setUint8(offset, unsigned(value, 8)),
  };
}

/** An unsigned 16-bit integer. */
export function u16(offset: number): Field<number> {
  return {
    offset,
    width: 2,
    read: (view) => view.getUint16(offset, true),
    write: (view, value) => view.setUint16(offset, unsigned(value, 16), true),
  };
}

/** An unsigned 32-bit integer. */
export function u32(offset: number): Field<number> {
  return {
    offset,
    width: 4,
    read: (view) => view.getUint32(offset, true),
    write: (view, value) => view.setUint32(offset, unsigned(value, 32), true),
  };
}

/** An unsigned 64-bit integer that may be any number: a bigint. */
export function u64(offset: number): Field<bigint> {
  return {
    offset,
    width: 8,
    read: (view) => view.getBigUint64(offset, true),
    write: (view, value) => {
      if (value < 0n || value > 0xffff_ffff_ffff_ffffn)
        throw new RangeError(`${value} is not an unsigned integer of 64 bits`);
      view.setBigUint64(offset, value, true);
    },
  };
}

/**
 * A guest physical address: a u64 as a number.
 *
 * No processor addresses 2^53 bytes. A peer's value beyond that reads as Infinity, which lies in no
 * memory and on no page boundary, so that it is refused where addresses are checked and never rounded.
 */
export function gpa(offset: number): Field<number> {
  return {
    offset,
    width: 8,
    read: (view) => {
      const value = view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
      return Number.isSafeInteger(value) ? value : Number.POSITIVE_INFINITY;
    },
    write: (view, value) => {
      if (!Number.isSafeInteger(value) || value < 0)
        throw new RangeError(`${value} is not a guest physical address`);
      view.setUint32(offset, value % 2 ** 32, true);
      view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
    },
  };
}

/** A byte of which the bits of `mask` mean true; written as 1. */
export function flag8(offset: number, mask = 0xff): Field<boolean> {
  return {
    offset,
    width: 1,
    read: (view) => (view.getUint8(offset) & mask) !== 0,
    write: (view, value) => view.setUint8(offset, value ? 1 : 0),
  };
}

/** Bit 0 of a 16-bit integer. */
export function flag16(offset: number): Field<boolean> {
  return {
    offset,
    width: 2,
    read: (view) => (view.getUint16(offset, true) & 1) !== 0,
    write: (view, value) => view.setUint16(offset, value ? 1 : 0, true),
  };
}

/** A GUID of 16 mixed-endian bytes. */
export function guid(offset: number): Field<Guid> {
  return {
    offset,
    width: GUID_SIZE,
    read: (view) => readGuid(fieldBytes(view, offset, GUID_SIZE)),
    write: (view, value) => writeGuid(fieldBytes(view, offset, GUID_SIZE), 0, value),
  };
}

/** Opaque bytes. Reading copies them; fewer than `width` are written with zeros behind, more are refused. */
export function bytes(offset: number, width: number): Field<Uint8Array> {
  return {
    offset,
    width,
    read: (view) => fieldBytes(view, offset, width).slice(),
    write: (view, value) => {
      if (value.byteLength > width)
        throw new RangeError(`${value.byteLength} bytes do not fit into ${width}`);
      fieldBytes(view, offset, width).set(value);
    },
  };
}

function fieldBytes(view: DataView, offset: number, width: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, width);
}
