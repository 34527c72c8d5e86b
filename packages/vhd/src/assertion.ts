/** A mistake of the caller's program (a range outside the disk, a call after `close`): never to be caught. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws `AssertionError` unless `condition` holds; for what only a programmer can get wrong. */
export function assert(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new AssertionError(rule);
}

/** Asserts that a transfer is whole sectors inside a disk and fits the caller's array. */
export function assertTransfer(
  disk: { readonly sizeBytes: number; readonly logicalSectorBytes: number },
  position: number,
  array: Uint8Array,
  arrayOffset: number,
  lengthBytes: number,
): void {
  assertRange(disk, position, lengthBytes);
  assert(
    arrayOffset >= 0 && arrayOffset + lengthBytes <= array.byteLength,
    "the range does not fit into the array",
  );
}

/** Asserts that a range is whole sectors inside a disk. */
export function assertRange(
  disk: { readonly sizeBytes: number; readonly logicalSectorBytes: number },
  position: number,
  lengthBytes: number,
): void {
  assert(
    position % disk.logicalSectorBytes === 0 && lengthBytes % disk.logicalSectorBytes === 0,
    "position and length are not whole sectors",
  );
  assert(
    position >= 0 && lengthBytes >= 0 && position + lengthBytes <= disk.sizeBytes,
    "the range is not inside the disk",
  );
}
