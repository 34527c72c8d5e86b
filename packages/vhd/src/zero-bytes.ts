/** Zeros to copy from: a piece as a whole needs no view. */
const PIECES = [65_536, 4096, 512].map((bytes) => new Uint8Array(bytes));

/**
 * Makes the bytes of `target` from `from` up to `to` zero. In shared memory, as a guest's is, `fill` stores one byte at a
 * time, which takes seven to nine times as long as copying zeros there.
 */
export function zeroBytes(target: Uint8Array, from: number, to: number): void {
  let at = from;
  for (const piece of PIECES)
    for (; to - at >= piece.byteLength; at += piece.byteLength) target.set(piece, at);
  if (at < to) target.fill(0, at, to);
}
