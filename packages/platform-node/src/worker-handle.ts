import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import {
  MessageChannel,
  Worker,
  type MessagePort,
  type ResourceLimits,
  type Transferable,
} from "node:worker_threads";
import { spinLimitUs } from "./adaptive-spin.js";
import type { ThreadPin } from "./cpu-affinity.js";
import { CpuLink } from "./cpu-link.js";
import { createDoorbells, type Doorbell } from "./doorbell.js";
import { PlatformError } from "./errors.js";
import type { WorkerStart } from "./worker-body.js";

/** The worker to start, and who hears of it. */
export interface StartWorkerOptions<Received> {
  /** The built entry file: a URL, a path, or a package's subpath that is resolved from `from`. */
  readonly entry: URL | string;
  /** `import.meta.url` of whoever can see the package of `entry`. */
  readonly from?: string | URL;
  /** Name of the thread, for people. */
  readonly name: string;
  /** What the worker works on. A SharedArrayBuffer or a WebAssembly.Memory is shared, the rest is copied. */
  readonly data?: unknown;
  /** Ports in `data` that go over to the worker. */
  readonly transfer?: readonly Transferable[];
  /** Where the worker is woken; a new one unless told. */
  readonly doorbell?: Doorbell;
  /** Bell of the thread that starts the worker, if that drains `link` by its pump instead of passing `onMessage`. */
  readonly ownBell?: Doorbell;
  readonly onMessage?: (message: Received) => void;
  /** The worker threw, or ran out of memory; `onExit` follows. */
  readonly onError?: (error: Error) => void;
  /** The worker is gone, for whatever reason; called once, after all its messages. */
  readonly onExit?: (exit: WorkerExit) => void;
  readonly resourceLimits?: ResourceLimits;
  /** Longest spin of the worker's pump; `spinLimitUs()` unless told, and none where it shares a CPU. */
  readonly spinLimitUs?: number;
  /** Where it runs, see `placeThreads`; wherever the system likes unless told. */
  readonly pin?: ThreadPin | undefined;
  /** How long `stop` waits before it terminates the worker; 2,000 ms unless told. */
  readonly stopTimeoutMs?: number;
}

/** How a worker ended. */
export interface WorkerExit {
  /** 0 if it ended by itself or when asked. */
  readonly code: number;
  /** What it threw. */
  readonly error: Error | undefined;
  /** True if `stop` had been called. */
  readonly stopRequested: boolean;
}

/** A running worker, as the thread that started it sees it. */
export interface WorkerHandle<Sent = unknown, Received = unknown> {
  readonly name: string;
  /** Wakes the worker. */
  readonly doorbell: Doorbell;
  /** The line to the worker; to be drained only if `ownBell` was given. */
  readonly link: CpuLink<Sent, Received>;
  /** Resolves when the worker is gone; never rejects. */
  readonly exited: Promise<WorkerExit>;
  /** Sends a message and wakes the worker. A worker that is gone gets nothing. */
  post(message: Sent): void;
  /**
   * Asks the worker to end, and terminates it if it does not. Resolves when it is gone. Idempotent.
   * Rejects with PlatformError `ERR_WORKER_STUCK` if not even that helped: it is inside a system call.
   */
  stop(): Promise<void>;
}

/**
 * Starts a worker whose entry file calls `runWorker`, `runVcpu` or `runHostWorker`.
 *
 * A worker that throws is reported by `onError` and `onExit`, and `exited` resolves: nothing waits for ever.
 * @throws PlatformError `ERR_WORKER_ENTRY` if there is no such file.
 */
export function startWorker<Sent = unknown, Received = unknown>(
  options: StartWorkerOptions<Received>,
): WorkerHandle<Sent, Received> {
  return new StartedWorker<Sent, Received>(options);
}

const STOP_TIMEOUT_MS = 2_000;
/** How long it may take to terminate a thread that runs JavaScript, on a busy machine. */
const TERMINATE_TIMEOUT_MS = 2_000;

class StartedWorker<Sent, Received> implements WorkerHandle<Sent, Received> {
  readonly name: string;
  readonly doorbell: Doorbell;
  readonly link: CpuLink<Sent, Received>;
  readonly exited: Promise<WorkerExit>;
  readonly #worker: Worker;
  readonly #stopTimeoutMs: number;
  #stopping: Promise<void> | undefined;
  #error: Error | undefined;

  constructor(options: StartWorkerOptions<Received>) {
    this.name = options.name;
    this.doorbell = options.doorbell ?? createDoorbells(1)[0]!;
    this.#stopTimeoutMs = options.stopTimeoutMs ?? STOP_TIMEOUT_MS;
    const { port1: port, port2: workerPort } = new MessageChannel();
    this.link = new CpuLink(port, this.doorbell);
    const start: WorkerStart = {
      data: options.data,
      words: this.doorbell.words,
      index: this.doorbell.index,
      starterWords: options.ownBell?.words,
      starterIndex: options.ownBell?.index ?? 0,
      port: workerPort,
      spinLimitUs: options.pin?.isShared === true ? 0 : (options.spinLimitUs ?? spinLimitUs()),
      cpu: options.pin?.cpu,
    };
    this.#worker = new Worker(entryFile(options.entry, options.from), {
      name: options.name,
      workerData: start,
      // The entry is a built file: loaders and conditions by which this thread reads sources are not for it.
      execArgv: [],
      transferList: [workerPort, ...(options.transfer ?? [])],
      ...(options.resourceLimits && { resourceLimits: options.resourceLimits }),
    });
    this.#worker.on("error", (error: unknown) => {
      this.#error = error instanceof Error ? error : new Error(String(error));
      options.onError?.(this.#error);
    });
    if (options.onMessage) port.on("message", options.onMessage);
    this.exited = new Promise((resolve) => {
      this.#worker.once("exit", (code) => {
        if (options.onMessage) this.#deliverRest(port, options.onMessage);
        const exit = {
          code,
          error: this.#error,
          stopRequested: this.#stopping !== undefined,
        };
        options.onExit?.(exit);
        resolve(exit);
      });
    });
  }

  post(message: Sent): void {
    this.link.send(message);
  }

  stop(): Promise<void> {
    return (this.#stopping ??= this.#stop());
  }

  async #stop(): Promise<void> {
    this.doorbell.requestStop();
    if (await this.#gone(this.#stopTimeoutMs)) return;
    void this.#worker.terminate();
    if (await this.#gone(TERMINATE_TIMEOUT_MS)) return;
    this.#worker.unref();
    throw new PlatformError(
      "ERR_WORKER_STUCK",
      `the worker ${this.name} did not end within ${this.#stopTimeoutMs} ms, and could not be terminated`,
    );
  }

  /** True once the worker is gone, false after the time-out. */
  async #gone(timeoutMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), timeoutMs);
    });
    const gone = await Promise.race([this.exited.then(() => true), late]);
    clearTimeout(timer);
    return gone;
  }

  /** Messages that were sent before the worker ended, but whose events have not come yet. */
  #deliverRest(port: MessagePort, onMessage: (message: Received) => void): void {
    for (let rest = this.link.receive(); rest !== undefined; rest = this.link.receive())
      onMessage(rest);
    port.close();
  }
}

function entryFile(entry: URL | string, from: string | URL = import.meta.url): URL {
  const refuse = (what: string, cause?: unknown): PlatformError =>
    new PlatformError("ERR_WORKER_ENTRY", `worker entry ${String(entry)}: ${what}`, { cause });
  let file: URL;
  try {
    file = entry instanceof URL ? entry : pathToFileURL(createRequire(from).resolve(entry));
  } catch (cause) {
    throw refuse("cannot be resolved", cause);
  }
  if (!existsSync(file)) throw refuse(`there is no ${file.pathname}; is it built?`);
  if (/\.[cm]?ts$/.test(file.pathname) && !("typescript" in process.features))
    throw refuse(
      `${file.pathname} is TypeScript, which this Node cannot run; ` +
        "in a package's exports, a worker's entry has no condition that leads to sources",
    );
  return file;
}
