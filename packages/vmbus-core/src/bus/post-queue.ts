import type { Timer, Timers } from "../clock.js";
import { HypercallStatus, MessageHeader, MessageType } from "../protocol/index.js";

/** When a message that the hypervisor did not take is posted again. */
export interface PostRetryPolicy {
  /** Times that a message is posted again at most. */
  readonly retries: number;
  /** Wait before the `retry`th time, from 1 on, in milliseconds. */
  delayMs(retry: number): number;
  /** True if this status may pass. */
  isTransient(status: HypercallStatus): boolean;
}

/** Linux: a status that lack of room explains is tried a hundred times, any other never. */
export const linuxPostRetries: PostRetryPolicy = {
  retries: 100,
  delayMs: (retry) => 0.001 * 2 ** Math.min(retry - 1, 21),
  isTransient: (status) =>
    status === HypercallStatus.insufficientMemory ||
    status === HypercallStatus.invalidConnectionId ||
    status === HypercallStatus.insufficientBuffers,
};

/** FreeBSD: whatever the status, twenty times, from 1 ms up to about 2 s. */
export const freebsdPostRetries: PostRetryPolicy = {
  retries: 20,
  delayMs: (retry) => 2 ** Math.min(retry - 1, 11),
  isTransient: () => true,
};

/** A message that was not taken. */
export interface PostFailure {
  readonly status: HypercallStatus;
  /** Messages of the same request that were taken before it; those after it are dropped. */
  readonly sent: number;
}

interface Request {
  readonly connectionId: number;
  readonly messages: readonly Uint8Array[];
  readonly failed: (failure: PostFailure) => void;
  sent: number;
  tries: number;
}

/** Posts messages strictly in order, waiting on timers and never in a loop when the hypervisor is busy. */
export class PostQueue {
  readonly #post: (connectionId: number, message: Uint8Array) => HypercallStatus;
  readonly #timers: Timers;
  readonly #policy: PostRetryPolicy;
  readonly #waiting: Request[] = [];
  #posting = false;
  #timer: Timer | undefined;
  /** Times that a message was posted again. */
  retries = 0;

  constructor(
    post: (connectionId: number, message: Uint8Array) => HypercallStatus,
    timers: Timers,
    policy: PostRetryPolicy,
  ) {
    this.#post = post;
    this.#timers = timers;
    this.#policy = policy;
  }

  /** Posts the messages of a request behind those that wait. `failed` is called at most once, perhaps before this returns. */
  send(
    connectionId: number,
    messages: readonly Uint8Array[],
    failed: (failure: PostFailure) => void,
  ): void {
    this.#waiting.push({ connectionId, messages, failed, sent: 0, tries: 0 });
    if (this.#timer === undefined) this.#run();
  }

  /** Drops all that waits; nobody is told. */
  clear(): void {
    this.#waiting.length = 0;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #run(): void {
    // The peer may answer, and its answer bring the next request, before the hypercall returns.
    if (this.#posting) return;
    this.#posting = true;
    try {
      for (let head = this.#waiting[0]; head !== undefined; head = this.#waiting[0]) {
        const message = head.messages[head.sent];
        if (message === undefined) {
          this.#waiting.shift();
          continue;
        }
        const status = this.#post(head.connectionId, message);
        if (head !== this.#waiting[0]) continue;
        if (status === HypercallStatus.success) {
          head.sent++;
          head.tries = 0;
        } else if (this.#mayPass(status, message) && head.tries < this.#policy.retries) {
          head.tries++;
          this.retries++;
          this.#timer = this.#timers.after(this.#policy.delayMs(head.tries), () => {
            this.#timer = undefined;
            this.#run();
          });
          return;
        } else {
          this.#waiting.shift();
          head.failed({ status, sent: head.sent });
        }
      }
    } finally {
      this.#posting = false;
    }
  }

  /** A host that does not know the connection of a contact is an old one, and stays one. */
  #mayPass(status: HypercallStatus, message: Uint8Array): boolean {
    if (
      status === HypercallStatus.invalidConnectionId &&
      MessageHeader.parse(message)?.type === MessageType.initiateContact
    )
      return false;
    return this.#policy.isTransient(status);
  }
}
