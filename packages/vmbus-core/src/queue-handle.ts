import type { CallLink } from "./call-link.js";
import type { ChannelClosedReason } from "./channel.js";

/** What the queue half of every driver is, to the kernel of its CPU and to its own control half. */
export interface QueueHalf {
  /** Answers a message of the control half: plain data, or a promise of it. */
  answer(message: unknown): unknown;
  /** Ends the queue, and takes its channel off the CPU. Idempotent. */
  stop(reason?: ChannelClosedReason): void;
}

/** Sends a plain message of a queue half to its control half. */
export type TellControl = (message: unknown) => void;

/** A queue half as its control half sees it, on whichever CPU that is. */
export interface QueueHandle<Queue extends QueueHalf = QueueHalf> {
  readonly cpu: number;
  /** The queue half itself, if it is on this CPU. */
  readonly local: Queue | undefined;
  /** Resolves with the reason when the CPU is gone: then nothing on it touches guest memory any more. */
  readonly lost: Promise<Error>;
  /** Has the queue half answer a plain message. Rejects with what it threw, or when its CPU is gone. */
  ask(message: unknown): Promise<unknown>;
  /** Ends the queue. Resolves when its CPU no longer uses the channel, or is gone; never rejects. Idempotent. */
  stop(reason?: ChannelClosedReason): Promise<void>;
}

/** A queue half on the CPU of its control half. */
export function localQueue<Queue extends QueueHalf>(cpu: number, queue: Queue): QueueHandle<Queue> {
  return {
    cpu,
    local: queue,
    lost: new Promise(() => undefined),
    ask: (message) => new Promise((resolve) => resolve(queue.answer(message))),
    stop: (reason) => {
      queue.stop(reason);
      return Promise.resolve();
    },
  };
}

/** What a CPU lets the boot processor do with the queue halves on it. */
export interface QueueProcedures {
  /** Makes a queue half; the caller numbers it. */
  startQueue(request: StartQueue): void;
  askQueue(request: { readonly queue: number; readonly message: unknown }): unknown;
  stopQueue(request: { readonly queue: number; readonly reason: ChannelClosedReason }): void;
}

/** A queue half to be made. */
export interface StartQueue {
  readonly queue: number;
  /** Name of the driver. */
  readonly driver: string;
  readonly description: unknown;
}

/** What the boot processor lets queue halves on other CPUs do. */
export interface ControlProcedures {
  tellControl(message: { readonly queue: number; readonly message: unknown }): void;
}

/** The queue halves on one CPU whose control halves are on another. */
export class QueueTable implements QueueProcedures {
  readonly #make: (start: StartQueue, tell: TellControl) => QueueHalf;
  readonly #tell: (queue: number, message: unknown) => void;
  readonly #queues = new Map<number, QueueHalf>();

  /** @param make - Constructs a driver's queue half on this CPU. @param tell - Sends a message of one to its control half. */
  constructor(
    make: (start: StartQueue, tell: TellControl) => QueueHalf,
    tell: (queue: number, message: unknown) => void,
  ) {
    this.#make = make;
    this.#tell = tell;
  }

  startQueue(start: StartQueue): void {
    const { queue } = start;
    this.#queues.set(
      queue,
      this.#make(start, (message) => this.#tell(queue, message)),
    );
  }

  askQueue({ queue, message }: { readonly queue: number; readonly message: unknown }): unknown {
    const half = this.#queues.get(queue);
    if (half === undefined) throw new Error(`there is no queue ${queue}`);
    return half.answer(message);
  }

  stopQueue({
    queue,
    reason,
  }: {
    readonly queue: number;
    readonly reason: ChannelClosedReason;
  }): void {
    this.#queues.get(queue)?.stop(reason);
    this.#queues.delete(queue);
  }
}

/** The line to a CPU with queues. */
type QueueCalls = Pick<CallLink<object, QueueProcedures>, "call">;

/** The queue halves on another CPU that are controlled from this one. */
export class RemoteQueues implements ControlProcedures {
  readonly #cpu: number;
  readonly #calls: QueueCalls;
  readonly #lost: Promise<Error>;
  readonly #tellers = new Map<number, TellControl>();
  #nextQueue = 1;

  /** @param lost - Resolves with the reason when that CPU is gone; `calls` is closed then. */
  constructor(cpu: number, calls: QueueCalls, lost: Promise<Error>) {
    this.#cpu = cpu;
    this.#calls = calls;
    this.#lost = lost;
  }

  /** Makes a queue half there; `told` gets its messages. Rejects if that fails, or the CPU is gone. */
  async start(driver: string, description: unknown, told: TellControl): Promise<QueueHandle> {
    const queue = this.#nextQueue++;
    this.#tellers.set(queue, told);
    try {
      await this.#calls.call("startQueue", { queue, driver, description });
    } catch (error) {
      this.#tellers.delete(queue);
      throw error;
    }
    return {
      cpu: this.#cpu,
      local: undefined,
      lost: this.#lost,
      ask: (message) => this.#calls.call("askQueue", { queue, message }),
      stop: async (reason = "closed") => {
        // A queue that throws while it stops has let go of its channel as far as it ever will.
        await this.#calls.call("stopQueue", { queue, reason }).catch(() => undefined);
        this.#tellers.delete(queue);
      },
    };
  }

  tellControl({ queue, message }: { readonly queue: number; readonly message: unknown }): void {
    this.#tellers.get(queue)?.(message);
  }
}
