import type { Clock, Timer, Timers } from "@hyperv-is/vmbus-core";

/**
 * The timers of one thread, run by its pump between two looks for work: a heap by deadline.
 *
 * Node's own timers do not run while a thread blocks; the next deadline here bounds how long a pump sleeps. A timer that
 * is set again leaves no garbage.
 */
export class NodeTimers implements Timers {
  readonly #clock: Clock;
  readonly #sooner: () => void;
  readonly #heap: Entry[] = [];
  #count = 0;

  /** @param sooner - called when a timer was added that is due before all others. */
  constructor(clock: Clock, sooner: () => void = () => undefined) {
    this.#clock = clock;
    this.#sooner = sooner;
  }

  now(): number {
    return this.#clock.now();
  }

  after(delayMs: number, run: () => void): Timer {
    const entry = new Entry(run, this.#set, this.#remove);
    this.#set(entry, delayMs);
    return entry;
  }

  /** When the next timer is due, on the clock; Infinity when there is none. */
  get nextDeadline(): number {
    const first = this.#heap[0];
    // With ?. the engine would put the deadline on the heap at each look, as it does with what may be undefined.
    return first === undefined ? Infinity : first.deadline;
  }

  /** Calls back what is due, in the order of deadlines; true if there was any. What a call-back adds waits for the next time. */
  runDue(now = this.#clock.now()): boolean {
    if (this.#heap.length === 0) return false;
    const newest = this.#count;
    let ran = false;
    for (let first = this.#heap[0]; first !== undefined; first = this.#heap[0]) {
      if (first.deadline > now || first.order >= newest) break;
      this.#remove(first);
      first.run();
      ran = true;
    }
    return ran;
  }

  readonly #set = (entry: Entry, delayMs: number): void => {
    if (!(delayMs >= 0)) throw new RangeError("a delay is 0 ms or more");
    this.#remove(entry);
    entry.deadline = this.#clock.now() + delayMs;
    entry.order = this.#count++;
    this.#rise(entry, this.#heap.length);
    if (entry.position === 0) this.#sooner();
  };

  readonly #remove = (entry: Entry): void => {
    const hole = entry.position;
    if (hole < 0) return;
    entry.position = -1;
    const last = this.#heap.pop();
    if (last === undefined || last === entry) return;
    const parent = this.#heap[(hole - 1) >> 1];
    if (hole > 0 && parent !== undefined && last.before(parent)) this.#rise(last, hole);
    else this.#sink(last, hole);
  };

  #rise(entry: Entry, from: number): void {
    let at = from;
    while (at > 0) {
      const parent = this.#heap[(at - 1) >> 1]!;
      if (!entry.before(parent)) break;
      this.#put(parent, at);
      at = (at - 1) >> 1;
    }
    this.#put(entry, at);
  }

  #sink(entry: Entry, from: number): void {
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      const left = this.#heap[child];
      if (left === undefined) break;
      const right = this.#heap[child + 1];
      if (right?.before(left) === true) child++;
      const least = this.#heap[child]!;
      if (!least.before(entry)) break;
      this.#put(least, at);
      at = child;
    }
    this.#put(entry, at);
  }

  #put(entry: Entry, at: number): void {
    this.#heap[at] = entry;
    entry.position = at;
  }
}

class Entry implements Timer {
  /** Not a small integer at first: the engine keeps its place for one that is none. */
  deadline = Infinity;
  /** Timers of one deadline run in the order in which they were set. */
  order = 0;
  readonly run: () => void;
  readonly #set: (entry: Entry, delayMs: number) => void;
  readonly #remove: (entry: Entry) => void;
  /** Index in the heap; -1 when it is not in it. */
  position = -1;

  constructor(
    run: () => void,
    set: (entry: Entry, delayMs: number) => void,
    remove: (entry: Entry) => void,
  ) {
    this.run = run;
    this.#set = set;
    this.#remove = remove;
  }

  before(other: Entry): boolean {
    return (
      this.deadline < other.deadline ||
      (this.deadline === other.deadline && this.order < other.order)
    );
  }

  again(delayMs: number): void {
    this.#set(this, delayMs);
  }

  cancel(): void {
    this.#remove(this);
  }
}
