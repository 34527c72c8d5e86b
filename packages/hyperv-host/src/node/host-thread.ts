import {
  Doorbell,
  startWorker,
  type ThreadPin,
  type WorkerExit,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import type { FaultPlanData } from "../faults.js";
import type { HypervisorState } from "../hypervisor/hypervisor-state.js";
import type { WorkerReply, WorkerRequest } from "../vmbus/worker-link.js";
import type {
  HostThreadAnswer,
  HostThreadData,
  HostThreadFailure,
  HostThreadReply,
  HostThreadRequest,
  HostThreadStats,
} from "./host-thread-messages.js";
import { LentThread } from "./lent-thread.js";

/** How a thread that serves devices is started. */
export interface HostThreadOptions<Stats extends HostThreadStats> {
  readonly name: string;
  /** Entry of its worker. */
  readonly entry: string;
  /** It is the thread of the first virtual processor, which the host does not start. */
  readonly isLent: boolean;
  readonly data: HostThreadData;
  readonly state: HypervisorState;
  /** Bell of the control thread. */
  readonly control: Doorbell;
  readonly stopTimeoutMs: number;
  readonly pin: ThreadPin | undefined;
  /** Stats of one that has ended. */
  readonly nothing: Stats;
  /** Makes an error of what went wrong when it started, or with a request. */
  readonly failure: (failure: HostThreadFailure) => Error;
  readonly onReady: () => void;
  readonly onFailure?: ((error: Error) => void) | undefined;
}

interface Waiting<Result> {
  readonly resolve: (result: Result) => void;
  readonly reject: (error: Error) => void;
}

/** What such a thread is sent. */
type Sent<Request> = HostThreadRequest | (Request & { readonly id: number });

/** A thread that serves devices, as the control plane sees it. */
export class HostThread<
  Stats extends HostThreadStats,
  Request extends { readonly kind: string } = never,
> {
  /** Resolves when its devices are there; rejects if they could not be made, or the thread ended. */
  readonly ready: Promise<void>;
  readonly exited: Promise<WorkerExit>;
  /** What the first virtual processor is to be given, if it lends its thread. */
  readonly lent: LentThread<Sent<Request>, HostThreadReply<Stats>> | undefined;
  readonly #handle: Pick<
    WorkerHandle<Sent<Request>, HostThreadReply<Stats>>,
    "link" | "exited" | "post" | "stop"
  >;
  readonly #options: HostThreadOptions<Stats>;
  readonly #stats = new Map<number, (stats: Stats) => void>();
  readonly #requests = new Map<number, Waiting<unknown>>();
  #start!: Waiting<void>;
  #isGone = false;
  #nextId = 1;

  constructor(options: HostThreadOptions<Stats>) {
    const { name, entry, isLent, data, state, control, stopTimeoutMs, pin, onFailure } = options;
    this.#options = options;
    const doorbell = new Doorbell(state.words, state.workerDoorbell(data.index));
    this.lent = isLent ? new LentThread(name, data, doorbell) : undefined;
    this.#handle =
      this.lent ??
      startWorker({
        entry,
        from: import.meta.url,
        name,
        data,
        doorbell,
        ownBell: control,
        stopTimeoutMs,
        pin,
        ...(onFailure && { onError: onFailure }),
      });
    this.ready = new Promise((resolve, reject) => {
      this.#start = { resolve, reject };
    });
    // Whoever waits for it learns of it there.
    this.ready.catch(() => undefined);
    this.exited = this.#handle.exited;
    void this.exited.then(({ error }) => this.#gone(error));
  }

  /** Sends a request of the server. */
  send(request: WorkerRequest): void {
    this.#handle.post(request);
  }

  /** Takes its messages. @param reply - gets those that are for the server. */
  receive(reply: (message: WorkerReply) => void): void {
    const { link } = this.#handle;
    for (let next = link.receive(); next !== undefined; next = link.receive()) {
      switch (next.kind) {
        case "ready":
          this.#options.onReady();
          this.#start.resolve();
          break;
        case "failed":
          this.#start.reject(this.#options.failure(next));
          break;
        case "stats":
          this.#stats.get(next.id)?.(next);
          this.#stats.delete(next.id);
          break;
        case "done":
          this.#done(next);
          break;
        default:
          reply(next);
      }
    }
  }

  /** Misbehaves in another way from now on. */
  setFaults(faults: FaultPlanData): void {
    if (!this.#isGone) this.#handle.post({ kind: "faults", faults });
  }

  /** What it has done; nothing once it has ended. */
  stats(): Promise<Stats> {
    return new Promise((resolve) => {
      if (this.#isGone) {
        resolve(this.#options.nothing);
        return;
      }
      const id = this.#nextId++;
      this.#stats.set(id, resolve);
      this.#handle.post({ kind: "stats", id });
    });
  }

  /** Has a request of its own kind carried out, and returns its result; rejects if it could not be, or the thread ended. */
  request(request: Request): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#isGone) {
        reject(this.#ended());
        return;
      }
      const id = this.#nextId++;
      this.#requests.set(id, { resolve, reject });
      this.#handle.post({ ...request, id });
    });
  }

  /** Ends it; resolves when it is gone. */
  stop(): Promise<void> {
    return this.#handle.stop();
  }

  #done({ id, result, failure }: HostThreadAnswer): void {
    const waiting = this.#requests.get(id);
    this.#requests.delete(id);
    if (failure === undefined) waiting?.resolve(result);
    else waiting?.reject(this.#options.failure(failure));
  }

  #gone(error: Error | undefined): void {
    this.#isGone = true;
    for (const answer of this.#stats.values()) answer(this.#options.nothing);
    this.#stats.clear();
    for (const { reject } of this.#requests.values()) reject(error ?? this.#ended());
    this.#requests.clear();
    this.#start.reject(error ?? new Error(`the worker ${this.#options.name} ended early`));
    this.#options.control.ring();
  }

  #ended(): Error {
    const message = `the worker ${this.#options.name} has ended`;
    return this.#options.failure({ code: "ERR_WORKER_ENDED", message });
  }
}
