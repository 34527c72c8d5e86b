import { FIRST_GPADL_ID } from "../protocol/index.js";
import type { SharedPages } from "./shared-pages.js";

/** The GPADLs of a connection by id, which no two of them share: some answers name nothing else. */
export class GpadlTable {
  readonly #byId = new Map<number, SharedPages>();
  #nextId = FIRST_GPADL_ID;

  /** An id that no GPADL of this connection has; never 0. */
  newId(): number {
    for (;;) {
      const id = this.#nextId;
      this.#nextId = id === 0xffff_ffff ? 1 : id + 1;
      if (!this.#byId.has(id)) return id;
    }
  }

  add(pages: SharedPages): void {
    this.#byId.set(pages.gpadlId, pages);
  }

  delete(pages: SharedPages): void {
    this.#byId.delete(pages.gpadlId);
  }

  get(gpadlId: number): SharedPages | undefined {
    return this.#byId.get(gpadlId);
  }

  /** UNLOAD had its outcome: decides the fate of all memory that is still shared. */
  unloaded(confirmed: boolean): void {
    for (const pages of [...this.#byId.values()]) pages.input({ kind: "unloaded", confirmed });
  }
}
