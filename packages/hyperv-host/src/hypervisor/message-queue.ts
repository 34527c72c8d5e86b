import { MESSAGE_PAYLOAD_MAX } from "@hyperv-is/vmbus-core/protocol";

const PAYLOAD_WORDS = MESSAGE_PAYLOAD_MAX / 4;

/** Words of an entry. */
const Entry = { connectionId: 0, vp: 1, type: 2, payloadSize: 3, payload: 4 } as const;
const ENTRY_WORDS = Entry.payload + PAYLOAD_WORDS;

/** Words before the sequence numbers: where producers write next, where the consumer reads next. */
const Head = { tail: 0, head: 16, WORDS: 32 } as const;

/** A message that a guest posted. */
export interface PostedMessage {
  /** Index of the virtual processor that posted it. */
  readonly vp: number;
  /** The connection it was posted on, 24 bits. */
  readonly connectionId: number;
  /** A `SynicMessageType`. */
  readonly type: number;
  /** Private to the receiver; at most 240 bytes. */
  readonly payload: Uint8Array;
}

/**
 * Messages on their way from the guest to the host: a bounded queue, any number of virtual processors
 * put, one host thread takes.
 *
 * Each entry carries a sequence number: `n` while the entry waits for the nth message, `n + 1` when that
 * is there, `n + capacity` once it was taken. A producer claims its entry by moving the tail.
 */
export class MessageQueue {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #first: number;
  readonly #sequence: number;
  readonly #entries: number;
  readonly #capacity: number;

  /** @param first - word index of the queue. @param capacity - entries, a power of two. */
  constructor(words: Int32Array, first: number, capacity: number) {
    this.#words = words;
    this.#bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    this.#first = first;
    this.#sequence = first + Head.WORDS;
    this.#entries = this.#sequence + capacity;
    this.#capacity = capacity;
  }

  /** Words that a queue of this capacity takes. */
  static words(capacity: number): number {
    return Head.WORDS + capacity + capacity * ENTRY_WORDS;
  }

  /** Makes the queue empty; for its creator, before anybody else knows it. */
  clear(): void {
    Atomics.store(this.#words, this.#first + Head.tail, 0);
    Atomics.store(this.#words, this.#first + Head.head, 0);
    for (let slot = 0; slot < this.#capacity; slot++)
      Atomics.store(this.#words, this.#sequence + slot, slot);
  }

  /**
   * Puts a message whose header the caller has read once and checked.
   *
   * @param source - words of guest memory. @param at - index of the payload's first word; 240 bytes are copied.
   * @returns False if the queue is full.
   */
  put(
    vp: number,
    connectionId: number,
    type: number,
    payloadSize: number,
    source: Int32Array,
    at: number,
  ): boolean {
    const words = this.#words;
    for (;;) {
      const tail = Atomics.load(words, this.#first + Head.tail);
      const slot = tail & (this.#capacity - 1);
      const turn = (Atomics.load(words, this.#sequence + slot) - tail) | 0;
      if (turn < 0) return false;
      const next = (tail + 1) | 0;
      // Another processor may have claimed the entry in the meantime: look at the next one.
      if (turn > 0 || Atomics.compareExchange(words, this.#first + Head.tail, tail, next) !== tail)
        continue;
      const entry = this.#entries + slot * ENTRY_WORDS;
      words[entry + Entry.connectionId] = connectionId;
      words[entry + Entry.vp] = vp;
      words[entry + Entry.type] = type;
      words[entry + Entry.payloadSize] = payloadSize;
      for (let word = 0; word < PAYLOAD_WORDS; word++)
        words[entry + Entry.payload + word] = source[at + word]!;
      Atomics.store(words, this.#sequence + slot, next);
      return true;
    }
  }

  /** Takes the oldest message; undefined if there is none. */
  take(): PostedMessage | undefined {
    const head = Atomics.load(this.#words, this.#first + Head.head);
    const slot = head & (this.#capacity - 1);
    if (Atomics.load(this.#words, this.#sequence + slot) !== ((head + 1) | 0)) return undefined;
    const entry = this.#entries + slot * ENTRY_WORDS;
    const start = (entry + Entry.payload) * 4;
    const message: PostedMessage = {
      vp: this.#words[entry + Entry.vp]!,
      connectionId: this.#words[entry + Entry.connectionId]! >>> 0,
      type: this.#words[entry + Entry.type]! >>> 0,
      payload: new Uint8Array(
        this.#bytes.subarray(start, start + this.#words[entry + Entry.payloadSize]!),
      ),
    };
    Atomics.store(this.#words, this.#sequence + slot, (head + this.#capacity) | 0);
    Atomics.store(this.#words, this.#first + Head.head, (head + 1) | 0);
    return message;
  }

  /** True if a message waits. */
  get waiting(): boolean {
    const head = Atomics.load(this.#words, this.#first + Head.head);
    const slot = head & (this.#capacity - 1);
    return Atomics.load(this.#words, this.#sequence + slot) === ((head + 1) | 0);
  }

  /** Throws away what waits; for the taking thread. */
  discard(): void {
    while (this.take() !== undefined);
  }
}
