// Numbers in network byte order. Each access is inside the bytes or throws: whoever parses what came from the
// network checks lengths first, and what it forgets shows in the fuzz tests.

function check(bytes: Uint8Array, at: number, lengthBytes: number): void {
  if (!(at >= 0 && at + lengthBytes <= bytes.byteLength))
    throw new RangeError(`${lengthBytes} bytes at ${at} are outside ${bytes.byteLength}`);
}

export function getU8(bytes: Uint8Array, at: number): number {
  check(bytes, at, 1);
  return bytes[at]!;
}

export function getU16(bytes: Uint8Array, at: number): number {
  check(bytes, at, 2);
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function getU32(bytes: Uint8Array, at: number): number {
  check(bytes, at, 4);
  return (
    ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
  );
}

export function putU16(bytes: Uint8Array, at: number, value: number): void {
  check(bytes, at, 2);
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  check(bytes, at, 4);
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}
