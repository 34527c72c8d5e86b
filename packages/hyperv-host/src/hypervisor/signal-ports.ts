import { CONNECTION_ID_MASK, MONITOR_COUNT } from "@hyperv-is/vmbus-core/protocol";

/** Entries of the table: twice what all relids can take with an offered and a chosen connection id each. */
const CAPACITY = 8192;
const ENTRY_WORDS = 2;

/** Words that the table takes. */
export const SIGNAL_PORT_WORDS = CAPACITY * ENTRY_WORDS + MONITOR_COUNT;

/** What `lookup` returns for a connection without a port. */
export const NO_PORT = -1;

const EMPTY = 0;
const DELETED = -1;
/** Makes a key of any connection id, 0 included, differ from an empty entry. */
const KEY_IN_USE = CONNECTION_ID_MASK + 1;

/** A port as one number: the host worker and the flag in its bitmap. */
export function portOf(worker: number, flag: number): number {
  return (worker << 16) | flag;
}

/**
 * Where the guest's signals go: connection ids and monitor ids to host workers and their flags.
 *
 * A hash table with linear probing. The control thread changes it while virtual processors look up; a
 * look-up that meets a change may ring the wrong bell, which is harmless, since a bell only says "look".
 */
export class SignalPorts {
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #monitors: number;

  /** @param first - word index of the table. */
  constructor(words: Int32Array, first: number) {
    this.#words = words;
    this.#first = first;
    this.#monitors = first + CAPACITY * ENTRY_WORDS;
  }

  /** The port of a connection, as `portOf` makes it, or `NO_PORT`. */
  lookup(connectionId: number): number {
    const at = this.#find(connectionId);
    return at < 0 ? NO_PORT : Atomics.load(this.#words, at + 1);
  }

  /** Opens a port. @returns False if the connection id is taken. */
  connect(connectionId: number, port: number): boolean {
    if (this.#find(connectionId) >= 0) return false;
    const words = this.#words;
    let slot = hash(connectionId);
    for (let probe = 0; probe < CAPACITY; probe++) {
      const at = this.#first + slot * ENTRY_WORDS;
      const key = Atomics.load(words, at);
      if (key === EMPTY || key === DELETED) {
        Atomics.store(words, at + 1, port);
        Atomics.store(words, at, keyOf(connectionId));
        return true;
      }
      slot = (slot + 1) & (CAPACITY - 1);
    }
    throw new Error("more signal ports than relids");
  }

  /** Closes the port of a connection, if there is one. */
  disconnect(connectionId: number): void {
    const at = this.#find(connectionId);
    if (at < 0) return;
    const words = this.#words;
    Atomics.store(words, at, DELETED);
    // A deleted entry before an empty one ends no chain: make it empty, so that look-ups stay short.
    let slot = (at - this.#first) / ENTRY_WORDS;
    if (Atomics.load(words, this.#first + ((slot + 1) & (CAPACITY - 1)) * ENTRY_WORDS) !== EMPTY)
      return;
    while (Atomics.load(words, this.#first + slot * ENTRY_WORDS) === DELETED) {
      Atomics.store(words, this.#first + slot * ENTRY_WORDS, EMPTY);
      slot = (slot - 1) & (CAPACITY - 1);
    }
  }

  /** Sets or removes the port of a monitor id, 0 to 127. */
  setMonitor(monitorId: number, port: number): void {
    Atomics.store(this.#words, this.#monitors + monitorId, port === NO_PORT ? 0 : port + 1);
  }

  /** The port of a monitor id, or `NO_PORT`. */
  monitor(monitorId: number): number {
    return Atomics.load(this.#words, this.#monitors + monitorId) - 1;
  }

  /** Closes all ports; for the control thread, while no processor runs. */
  clear(): void {
    this.#words.fill(0, this.#first, this.#first + SIGNAL_PORT_WORDS);
  }

  #find(connectionId: number): number {
    const key = keyOf(connectionId);
    let slot = hash(connectionId);
    for (let probe = 0; probe < CAPACITY; probe++) {
      const at = this.#first + slot * ENTRY_WORDS;
      const found = Atomics.load(this.#words, at);
      if (found === key) return at;
      if (found === EMPTY) return -1;
      slot = (slot + 1) & (CAPACITY - 1);
    }
    return -1;
  }
}

function keyOf(connectionId: number): number {
  return (connectionId & CONNECTION_ID_MASK) | KEY_IN_USE;
}

function hash(connectionId: number): number {
  return (connectionId ^ (connectionId >>> 13)) & (CAPACITY - 1);
}
