import { workerData, type MessagePort } from "node:worker_threads";
import type { MessageLink, Timers } from "@hyperv-is/vmbus-core";
import { pinThread } from "./cpu-affinity.js";
import { CpuLink } from "./cpu-link.js";
import { Doorbell, DoorbellCause } from "./doorbell.js";
import { Pump, type Pumped, type PumpKind } from "./pump.js";

/** What `startWorker` puts into `workerData`. */
export interface WorkerStart {
  readonly data: unknown;
  readonly words: Int32Array;
  readonly index: number;
  /** Bell of the thread at the other end of `port`; absent if that listens to the port's events. */
  readonly starterWords: Int32Array | undefined;
  readonly starterIndex: number;
  readonly port: MessagePort;
  readonly spinLimitUs: number;
  /** The only CPU that it is to use, if there is to be one. */
  readonly cpu: number | undefined;
}

/** What a worker has to work with. */
export interface WorkerContext<Data> {
  /** What the thread that started the worker gave to it. */
  readonly data: Data;
  /** The line to that thread; its messages go to `WorkerBody.message`. */
  readonly starter: MessageLink;
  /** Wakes this thread; may be handed to others. */
  readonly doorbell: Doorbell;
  readonly timers: Timers;
  /** Has the messages of a further link, whose other end rings this doorbell, handed to `handle` as they come. */
  listen(link: MessageLink, handle: (message: unknown) => void): void;
  /** Ends this thread's sleeps when a file can be read as well, see `Pump.watch`. @returns What ends that. */
  readonly watch: (fd: number, news?: () => void) => () => void;
  /** Changes what a watched file is waited for, see `Pump.watchFor`. */
  readonly watchFor: (fd: number, input: boolean, output: boolean) => void;
  /** Serves Node's events while `work` is pending, see `Pump.during`. */
  during<T>(work: Promise<T>): Promise<T>;
  /** Looks for the answer to what one of Node's events has asked, see `Pump.turnNow`. */
  turnNow(): void;
}

/** What a worker does. All of it is called on the worker's pump, one after the other. */
export interface WorkerBody extends Pumped {
  /** The doorbell rang for these causes, one or more of those that the program defines. */
  rung?(causes: number): void;
  /** A message of the thread that started the worker. */
  message?(message: unknown): void;
  /** Called once, beside the pump. The worker ends when it is done, with its error if it fails. */
  main?(): Promise<void>;
  /** The pump has ended: a stop was requested, or something above threw. */
  stopped?(): void | Promise<void>;
}

/**
 * The life of a worker that `startWorker` started: what its entry file calls and awaits.
 *
 * Ends when the worker is asked to stop. Whatever the body throws ends the worker with that error.
 *
 * @param kind - of the pump, perhaps depending on the data.
 */
export async function runWorker<Data>(
  kind: PumpKind | ((data: Data) => PumpKind),
  begin: (context: WorkerContext<Data>) => WorkerBody | Promise<WorkerBody>,
): Promise<void> {
  const start = workerData as WorkerStart;
  if (start.cpu !== undefined) pinThread(start.cpu);
  const data = start.data as Data;
  const doorbell = new Doorbell(start.words, start.index);
  const pump = new Pump(typeof kind === "string" ? kind : kind(data), doorbell, {
    spinLimitUs: start.spinLimitUs,
  });
  const starter = new CpuLink(
    start.port,
    start.starterWords && new Doorbell(start.starterWords, start.starterIndex),
  );
  const links = new Map<MessageLink, (message: unknown) => void>();
  const body = await begin({
    data,
    starter,
    doorbell,
    timers: pump.timers,
    listen: (link, handle) => void links.set(link, handle),
    watch: (fd, news) => pump.watch(fd, news),
    watchFor: (fd, input, output) => pump.watchFor(fd, input, output),
    during: (work) => pump.during(work),
    turnNow: () => pump.turnNow(),
  });
  links.set(starter, (message) => body.message?.(message));
  const failures: unknown[] = [];
  void body
    .main?.()
    .catch((error: unknown) => failures.push(error))
    .finally(() => doorbell.requestStop());
  try {
    await pump.run({
      drain(): boolean {
        const causes = doorbell.take();
        if (causes !== 0) answer(causes);
        return body.drain() || causes !== 0;
      },
    });
  } finally {
    await body.stopped?.();
    for (const link of links.keys()) link.close();
  }
  if (failures.length > 0) throw failures[0];

  function answer(causes: number): void {
    if ((causes & ~DoorbellCause.message) !== 0) body.rung?.(causes & ~DoorbellCause.message);
    if ((causes & DoorbellCause.message) === 0) return;
    for (const [link, handle] of links)
      for (let next = link.receive(); next !== undefined; next = link.receive()) handle(next);
  }
}
