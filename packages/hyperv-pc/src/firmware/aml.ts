/** Encoded AML: the byte code of ACPI tables (ACPI specification, chapter "ACPI Machine Language"). */
export type Aml = readonly number[];

const Op = {
  zero: 0x00,
  byte: 0x0a,
  word: 0x0b,
  dword: 0x0c,
  string: 0x0d,
  name: 0x08,
  scope: 0x10,
  buffer: 0x11,
  extension: 0x5b,
  device: 0x82,
  root: 0x5c,
} as const;

/** A name of four characters, padded by underscores; `\` stands for the root in front of it. */
function nameString(name: string): Aml {
  const rooted = name.startsWith("\\");
  const segment = rooted ? name.slice(1) : name;
  if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) throw new RangeError(`${name} is no ACPI name`);
  return [...(rooted ? [Op.root] : []), ...ascii(segment.padEnd(4, "_"))];
}

function ascii(text: string): number[] {
  return Array.from(new TextEncoder().encode(text));
}

/**
 * Puts the length of a package in front of it: it counts itself, and takes one byte up to 63, else a byte
 * that says how many follow, with the four low bits, and those.
 */
function packaged(content: Aml): Aml {
  if (content.length + 1 < 1 << 6) return [content.length + 1, ...content];
  for (let following = 1; following <= 3; following++) {
    const length = content.length + 1 + following;
    if (length >= 1 << (4 + 8 * following)) continue;
    const rest = Array.from({ length: following }, (_, at) => (length >>> (4 + 8 * at)) & 0xff);
    return [(following << 6) | (length & 0xf), ...rest, ...content];
  }
  throw new RangeError("an AML package is shorter than 256 MiB");
}

/** An unsigned 32-bit integer, in the shortest form. */
export function integer(value: number): Aml {
  if (value === 0) return [Op.zero];
  const [op, bytes] = value <= 0xff ? [Op.byte, 1] : value <= 0xffff ? [Op.word, 2] : [Op.dword, 4];
  return [op, ...Array.from({ length: bytes }, (_, at) => (value >>> (8 * at)) & 0xff)];
}

/** A string of ASCII characters. */
export function string(text: string): Aml {
  return [Op.string, ...ascii(text), 0];
}

/** `Name (NAME, value)`. */
export function named(name: string, value: Aml): Aml {
  return [Op.name, ...nameString(name), ...value];
}

/** `Scope (NAME) { ... }`. */
export function scope(name: string, ...terms: readonly Aml[]): Aml {
  return [Op.scope, ...packaged([...nameString(name), ...terms.flat()])];
}

/** `Device (NAME) { ... }`. */
export function device(name: string, ...terms: readonly Aml[]): Aml {
  return [Op.extension, Op.device, ...packaged([...nameString(name), ...terms.flat()])];
}

/** `Buffer () { ... }`. */
export function buffer(bytes: Aml): Aml {
  return [Op.buffer, ...packaged([...integer(bytes.length), ...bytes])];
}

/** `ResourceTemplate () { ... }`: descriptors, and the end tag with a checksum of 0, which is not checked. */
export function resourceTemplate(...descriptors: readonly Aml[]): Aml {
  return buffer([...descriptors.flat(), 0x79, 0x00]);
}

/** `IO (Decode16, minimum, maximum, alignment, length)`: a range of I/O ports. */
export function ioPorts(minimum: number, maximum: number, alignment: number, length: number): Aml {
  const half = (value: number): Aml => [value & 0xff, value >>> 8];
  return [0x47, 0x01, ...half(minimum), ...half(maximum), alignment, length];
}

/** What the header of a table says of it. */
export interface TableIdentity {
  /** Four characters, such as `SSDT`. */
  readonly signature: string;
  readonly revision: number;
  /** Six characters. */
  readonly oemId: string;
  /** Eight characters. */
  readonly oemTableId: string;
  readonly oemRevision: number;
}

const HEADER_BYTES = 36;
const CHECKSUM_OFFSET = 9;

/** A whole table: header with its checksum, and byte code. */
export function table(identity: TableIdentity, code: Aml): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + code.length);
  const view = new DataView(bytes.buffer);
  bytes.set(ascii(identity.signature));
  view.setUint32(4, bytes.byteLength, true);
  view.setUint8(8, identity.revision);
  bytes.set(ascii(identity.oemId), 10);
  bytes.set(ascii(identity.oemTableId), 16);
  view.setUint32(24, identity.oemRevision, true);
  bytes.set(ascii("HVIS"), 28);
  view.setUint32(32, 1, true);
  bytes.set(code, HEADER_BYTES);
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  view.setUint8(CHECKSUM_OFFSET, -sum & 0xff);
  return bytes;
}
