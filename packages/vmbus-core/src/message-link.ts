/**
 * One end of a line between two CPUs, or between a CPU and the machine: plain messages, in order.
 *
 * A message is what structured cloning takes: data, no functions. The receiver gets a copy. Arrival is
 * announced by the platform's doorbell; whoever drains the bell calls `receive` until nothing is left.
 */
export interface MessageLink<Sent = unknown, Received = Sent> {
  /** Sends a copy of `message`, which is not undefined, and wakes the other end. Does nothing on a closed link. Throws a `DataCloneError` for what cannot be copied. */
  send(message: Sent): void;
  /** Takes the oldest message that waits here; undefined when there is none. */
  receive(): Received | undefined;
  /** Ends the link, this end at once and the other soon; messages that were not received are lost. Idempotent. */
  close(): void;
}

/** Two connected ends of a link. */
export interface MessageLinkPair<LeftToRight, RightToLeft> {
  readonly left: MessageLink<LeftToRight, RightToLeft>;
  readonly right: MessageLink<RightToLeft, LeftToRight>;
}

/**
 * A link within one thread, for the simulation and for embedding.
 *
 * @param wakeLeft - called when a message waits at the left end. @param wakeRight - likewise.
 */
export function messageLinkPair<LeftToRight = unknown, RightToLeft = LeftToRight>(
  wakeLeft: () => void,
  wakeRight: () => void,
): MessageLinkPair<LeftToRight, RightToLeft> {
  const toRight = new Queue<LeftToRight>(wakeRight);
  const toLeft = new Queue<RightToLeft>(wakeLeft);
  return { left: new End(toRight, toLeft), right: new End(toLeft, toRight) };
}

class Queue<Message> {
  readonly wake: () => void;
  messages: Message[] = [];
  closed = false;

  constructor(wake: () => void) {
    this.wake = wake;
  }

  close(): void {
    this.closed = true;
    this.messages = [];
  }
}

class End<Sent, Received> implements MessageLink<Sent, Received> {
  readonly #outgoing: Queue<Sent>;
  readonly #incoming: Queue<Received>;

  constructor(outgoing: Queue<Sent>, incoming: Queue<Received>) {
    this.#outgoing = outgoing;
    this.#incoming = incoming;
  }

  send(message: Sent): void {
    const copy = structuredClone(message);
    if (this.#outgoing.closed) return;
    this.#outgoing.messages.push(copy);
    this.#outgoing.wake();
  }

  receive(): Received | undefined {
    return this.#incoming.messages.shift();
  }

  close(): void {
    this.#outgoing.close();
    this.#incoming.close();
  }
}
