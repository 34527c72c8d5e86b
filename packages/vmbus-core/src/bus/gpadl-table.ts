import { FIRST_GPADL_ID } from "../protocol/index.js";
import type { GpadlInput } from "./gpadl.js";

/** A GPADL as the bus sees it. */
export interface HeldGpadl {
  readonly gpadlId: number;
  /** The channel that it belongs to. */
  readonly relid: number;
  input(input: GpadlInput): void;
}

/** The GPADLs of a connection by id, which no two of them share: some answers name nothing else. */
export class GpadlTable {
  readonly #byId = new Map<number, HeldGpadl>();
  #nextId: number;

  constructor(firstId = FIRST_GPADL_ID) {
    this.#nextId = firstId;
  }

  /** An id that no GPADL of this connection has; never 0. */
  newId(): number {
    for (;;) {
      const id = this.#nextId;
      this.#nextId = id === 0xffff_ffff ? 1 : id + 1;
      if (!this.#byId.has(id)) return id;
    }
  }

  add(gpadl: HeldGpadl): void {
    this.#byId.set(gpadl.gpadlId, gpadl);
  }

  delete(gpadl: HeldGpadl): void {
    this.#byId.delete(gpadl.gpadlId);
  }

  get(gpadlId: number): HeldGpadl | undefined {
    return this.#byId.get(gpadlId);
  }

  /** UNLOAD had its outcome: decides the fate of all memory that is still shared. */
  unloaded(confirmed: boolean): void {
    for (const gpadl of [...this.#byId.values()]) gpadl.input({ kind: "unloaded", confirmed });
  }
}
