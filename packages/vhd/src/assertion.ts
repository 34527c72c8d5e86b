/** A mistake of the caller's program (a range outside the disk, a call after `close`): never to be caught. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws `AssertionError` unless `condition` holds; for what only a programmer can get wrong. */
export function assert(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new AssertionError(rule);
}

/** What says which ranges a disk has. */
export interface Sectors {
  readonly sizeBytes: number;
  readonly logicalSectorBytes: number;
}

/** Asserts that a transfer is whole sectors inside a disk and fits the caller's array. */
export function assertTransfer(
  disk: Sectors,
  sector: number,
  array: Uint8Array,
  arrayOffset: number,
  lengthBytes: number,
): void {
  assertSectors(disk, sector, lengthBytes);
  assert(
    arrayOffset >= 0 && arrayOffset + lengthBytes <= array.byteLength,
    "the range does not fit into the array",
  );
}

/** Asserts that a range is whole sectors inside a disk. */
export function assertRange(disk: Sectors, position: number, lengthBytes: number): void {
  assertSectors(disk, position / disk.logicalSectorBytes, lengthBytes);
}

/** The same by the number of the first sector. */
export function assertSectors(disk: Sectors, sector: number, lengthBytes: number): void {
  const { logicalSectorBytes } = disk;
  assert(
    isWhole(sector) && isWhole(lengthBytes / logicalSectorBytes),
    "position and length are not whole sectors",
  );
  const end = sector * logicalSectorBytes + lengthBytes;
  assert(
    sector >= 0 && lengthBytes >= 0 && end <= disk.sizeBytes,
    "the range is not inside the disk",
  );
}

/** Not by `%`, which calls a library for numbers of more than 32 bits. */
function isWhole(sectors: number): boolean {
  return Math.floor(sectors) === sectors;
}
