import type { StorvspRequest } from "./storvsp-request.js";

/**
 * Requests that are carried out together: first the disks work on all of them, then those that the disks ended at
 * once are completed. Steps of one kind in a row find their code and data in the processor's caches, which each
 * transfer of a disk empties. Allocates nothing once it was full.
 */
export class RequestBatch {
  readonly #execute: (request: StorvspRequest) => void;
  readonly #executed: () => void;
  readonly #complete: (request: StorvspRequest) => void;
  // Only the first ones count: an array that is cut to length 0 gives its memory away.
  readonly #requests: StorvspRequest[] = [];
  #count = 0;
  readonly #ended: StorvspRequest[] = [];
  #endedCount = 0;
  #isCarryingOut = false;

  /**
   * @param execute - lets a disk work on a request; `ended` is called for it, now or later.
   * @param executed - is called when all were: disks may do some together.
   * @param complete - answers a request that has ended.
   */
  constructor(
    execute: (request: StorvspRequest) => void,
    executed: () => void,
    complete: (request: StorvspRequest) => void,
  ) {
    this.#execute = execute;
    this.#executed = executed;
    this.#complete = complete;
  }

  /** Requests that wait for `carryOut`. */
  get count(): number {
    return this.#count;
  }

  add(request: StorvspRequest): void {
    this.#requests[this.#count++] = request;
  }

  /** Executes what was added, and completes what of it has ended. */
  carryOut(): void {
    this.#isCarryingOut = true;
    for (let index = 0; index < this.#count; index++) this.#execute(this.#requests[index]!);
    this.#executed();
    this.#isCarryingOut = false;
    this.#count = 0;
    for (let index = 0; index < this.#endedCount; index++) this.#complete(this.#ended[index]!);
    this.#endedCount = 0;
  }

  /** A disk has ended a request: it is completed after the others of its batch were executed, or at once. */
  ended(request: StorvspRequest): void {
    if (this.#isCarryingOut) this.#ended[this.#endedCount++] = request;
    else this.#complete(request);
  }
}
