import { FixedMemory } from "./fixed-memory.js";
import { libc } from "./libc.js";

/** Words of a doorbell, and what each is for. */
const Word = { sequence: 0, sleepers: 1, causes: 2, stop: 3 } as const;

/** What the word of sleepers holds beside their count: 1 + the file that wakes its owner, who waits for files. */
const FILE_SHIFT = 8;
const COUNT_MASK = (1 << FILE_SHIFT) - 1;
/** What an eventfd is written with, so that it can be read; there once that was done. */
let one: FixedMemory | undefined;

/** Why a doorbell rang, as bits. The low eight are the platform's, the others belong to the program. */
export const DoorbellCause = {
  /** A message waits on a link. */
  message: 1 << 0,
  /** The hypervisor has an interrupt for this virtual processor. */
  interrupt: 1 << 1,
} as const;

/**
 * How a thread that sleeps is woken by any other thread: four words of shared memory.
 *
 * One thread owns it and waits; any number ring. A ring bumps the sequence number, then looks whether
 * somebody sleeps; a sleeper counts itself, takes the sequence number, looks for work, and only then waits
 * for the number to change. Whoever comes second sees what the first one did, so no wake-up is lost, and a
 * ring that wakes nobody costs two atomic operations. A ring is a hint: it says "look", not "there is".
 */
export class Doorbell {
  /** Words that a doorbell uses. */
  static readonly WORDS = 4;
  /** Words from one doorbell to the next in an array of them: a cache line each. */
  static readonly STRIDE = 16;

  readonly words: Int32Array;
  readonly index: number;

  /** @param words - over shared memory that begins as zeros. @param index - word at which this one begins. */
  constructor(words: Int32Array, index: number) {
    if (index < 0 || index + Doorbell.WORDS > words.length)
      throw new RangeError("doorbell outside its memory");
    this.words = words;
    this.index = index;
  }

  /** Wakes the owner, or keeps it from falling asleep. @param causes - bits that the owner will `take`. */
  ring(causes = 0): void {
    if (causes !== 0) Atomics.or(this.words, this.index + Word.causes, causes);
    Atomics.add(this.words, this.index + Word.sequence, 1);
    const sleepers = Atomics.load(this.words, this.index + Word.sleepers);
    if (sleepers === 0) return;
    if (sleepers > COUNT_MASK) this.#wakeFromFiles();
    if ((sleepers & COUNT_MASK) !== 0) Atomics.notify(this.words, this.index + Word.sequence);
  }

  /** Takes all causes, leaving none. To be done before looking for what they announce. */
  take(): number {
    const at = this.index + Word.causes;
    // Most looks find nothing, and a load costs half of an exchange.
    return Atomics.load(this.words, at) === 0 ? 0 : Atomics.exchange(this.words, at, 0);
  }

  /** Asks the owner to end, for good. */
  requestStop(): void {
    Atomics.store(this.words, this.index + Word.stop, 1);
    this.ring();
  }

  get stopRequested(): boolean {
    return Atomics.load(this.words, this.index + Word.stop) !== 0;
  }

  /**
   * Announces a sleep. The caller looks for work after this and before `wait` or `waitAsync`, and calls
   * `disarm` in any case.
   *
   * @returns The sequence number to wait on.
   */
  arm(): number {
    Atomics.add(this.words, this.index + Word.sleepers, 1);
    return Atomics.load(this.words, this.index + Word.sequence);
  }

  /** Ends what `arm` began. */
  disarm(): void {
    Atomics.sub(this.words, this.index + Word.sleepers, 1);
  }

  /**
   * Announces a sleep of the owner in which it waits for files, `eventFd` among them: the next ring writes to that, once.
   * `disarmFile` follows in any case.
   */
  armFile(eventFd: number): void {
    Atomics.or(this.words, this.index + Word.sleepers, (eventFd + 1) << FILE_SHIFT);
  }

  /** Ends what `armFile` began. @returns True if a ring has written to the file, or is about to. */
  disarmFile(): boolean {
    return Atomics.and(this.words, this.index + Word.sleepers, COUNT_MASK) <= COUNT_MASK;
  }

  /** Blocks the thread until a ring or for `timeoutMs`; below about 0.1 ms a time-out is late. @returns False after a time-out. */
  wait(sequence: number, timeoutMs = Infinity): boolean {
    const at = this.index + Word.sequence;
    return Atomics.wait(this.words, at, sequence, timeoutMs) !== "timed-out";
  }

  /** Waits for a ring while Node serves this thread. A pending wait does not keep the process alive. */
  async waitAsync(sequence: number): Promise<void> {
    const waiting = Atomics.waitAsync(this.words, this.index + Word.sequence, sequence);
    if (waiting.async) await waiting.value;
  }

  /** Of several ringers one writes: the owner counts on that. */
  #wakeFromFiles(): void {
    const sleepers = Atomics.and(this.words, this.index + Word.sleepers, COUNT_MASK);
    if (sleepers <= COUNT_MASK) return;
    one ??= new FixedMemory(new Uint8Array(new BigUint64Array([1n]).buffer));
    // Takes half as long as `writeSync`, whose code is cold besides when a packet comes after a pause.
    libc().write((sleepers >>> FILE_SHIFT) - 1, one.address, one.bytes.byteLength);
  }
}

/** Zeroed shared memory for `count` doorbells, `Doorbell.STRIDE` words each. */
export function createDoorbells(count: number): Doorbell[] {
  const words = new Int32Array(new SharedArrayBuffer(count * Doorbell.STRIDE * 4));
  return Array.from({ length: count }, (_, index) => new Doorbell(words, index * Doorbell.STRIDE));
}
