/** One thing that was done to a sector. */
interface Event {
  /** Length of the file's trace when it began. */
  readonly at: number;
  /** 0: zeros. */
  readonly stamp: number;
}

/**
 * What every sector of a disk may hold after a loss of power at any point of a trace.
 *
 * Each write has a stamp, and a sector's bytes are made from its number and the stamp, so that a sector
 * of another place or another time is told from the right one.
 */
export class SectorHistory {
  readonly sectorBytes: number;
  readonly #events = new Map<number, Event[]>();
  /** Flushes: what began before `began` is durable once the trace has reached `ended`. */
  readonly #flushes: { readonly began: number; readonly ended: number }[] = [];

  constructor(sectorBytes: number) {
    this.sectorBytes = sectorBytes;
  }

  /** The sector's latest stamp. */
  latest(sector: number): number {
    return this.#events.get(sector)?.at(-1)?.stamp ?? 0;
  }

  record(sector: number, at: number, stamp: number): void {
    const events = this.#events.get(sector);
    if (events === undefined) this.#events.set(sector, [{ at, stamp }]);
    else events.push({ at, stamp });
  }

  /** All known sectors of a range became zero. */
  recordZeros(firstSector: number, endSector: number, at: number): void {
    for (const [sector, events] of this.#events)
      if (sector >= firstSector && sector < endSector) events.push({ at, stamp: 0 });
  }

  flushed(began: number, ended: number): void {
    this.#flushes.push({ began, ended });
  }

  /** Whether a sector may hold what `stamp` wrote after power was lost when the trace had `cut` operations. */
  allows(sector: number, stamp: number, cut: number): boolean {
    const events = this.#events.get(sector);
    if (events === undefined) return stamp === 0;
    const durable = this.#flushes.findLast((flush) => flush.ended <= cut)?.began ?? 0;
    let allowed = stamp === 0;
    for (const event of events) {
      if (event.at >= cut && event.at >= durable) break;
      if (event.at < durable) allowed = event.stamp === stamp;
      else allowed ||= event.stamp === stamp;
    }
    return allowed;
  }

  /** Begins `other` with the latest state of every sector, as durable. */
  carryInto(other: SectorHistory): void {
    for (const [sector, events] of this.#events) {
      const stamp = events.at(-1)!.stamp;
      if (stamp !== 0) other.record(sector, -1, stamp);
    }
  }

  /** Fills `bytes` from `offset` on with what the write `stamp` puts into the sector. */
  fill(bytes: Uint8Array, offset: number, sector: number, stamp: number): void {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset + offset, this.sectorBytes / 4);
    words[0] = sector + 1;
    words[1] = stamp;
    for (let at = 2; at < words.length; at++) words[at] = mixed(sector, stamp, at);
  }

  /**
   * The stamp of the sector whose bytes begin at word `from` of `words`; -1 when they are neither zeros
   * nor what `fill` made for this sector.
   */
  stampOf(words: Uint32Array, from: number, sector: number): number {
    const end = from + this.sectorBytes / 4;
    const stamp = words[from + 1]!;
    if (words[from] === 0) {
      for (let at = from; at < end; at++) if (words[at] !== 0) return -1;
      return 0;
    }
    if (words[from] !== sector + 1 || stamp === 0) return -1;
    // Writes tear between sectors, not in them: a sample of the words tells as much as all.
    for (let at = from + 3; at < end; at += 4)
      if (words[at] !== mixed(sector, stamp, at - from)) return -1;
    return stamp;
  }
}

function mixed(sector: number, stamp: number, at: number): number {
  return (Math.imul(sector + 1, 0x9e37_79b1) ^ Math.imul(stamp, 0x85eb_ca6b) ^ at) >>> 0;
}
