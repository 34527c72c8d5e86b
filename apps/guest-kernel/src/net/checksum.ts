/**
 * The internet checksum's sum of the bytes from `at` to `end`, not complemented, added to `sum` (RFC 1071).
 * An odd last byte counts as if a zero followed; so only the last part of a sum may be odd.
 */
export function addToSum(sum: number, bytes: Uint8Array, at: number, end: number): number {
  let total = sum;
  const even = end - ((end - at) & 1);
  for (let index = at; index < even; index += 2) total += (bytes[index]! << 8) | bytes[index + 1]!;
  if (even < end) total += bytes[even]! << 8;
  return total;
}

/** The checksum: a sum folded to 16 bits and complemented. */
export function finishSum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x1_0000);
  return ~folded & 0xffff;
}

/** Checksum of the bytes from `at` to `end`; 0 if a right one is among them. */
export function checksum(bytes: Uint8Array, at: number, end: number): number {
  return finishSum(addToSum(0, bytes, at, end));
}

/** Sum of the pseudo header of UDP over IPv4 (RFC 768). */
export function pseudoHeaderSum(
  source: number,
  destination: number,
  protocol: number,
  lengthBytes: number,
): number {
  return (
    (source >>> 16) +
    (source & 0xffff) +
    (destination >>> 16) +
    (destination & 0xffff) +
    protocol +
    lengthBytes
  );
}
