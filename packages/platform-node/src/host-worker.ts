import type { PumpKind } from "./pump.js";
import {
  attachGuestMemory,
  type SharedGuestMemory,
  type WasmMemory,
} from "./shared-guest-memory.js";
import { runWorker, type WorkerBody, type WorkerContext } from "./worker-body.js";

/** The least that a host worker is given. */
export interface HostWorkerData {
  readonly memory: WasmMemory;
  /** Kind of its pump; blocking unless told. */
  readonly pump?: PumpKind;
}

/** What a host worker has to work with. */
export interface HostWorkerContext<Data extends HostWorkerData> extends WorkerContext<Data> {
  readonly memory: SharedGuestMemory;
}

/**
 * What the entry file of a worker that serves devices of the host calls: a pump over guest memory.
 *
 * The body may call synchronous file functions. On a blocking pump an open or a close that needs Node's event
 * loop goes through `during`; devices that need it all the time ask for an async one.
 */
export function runHostWorker<Data extends HostWorkerData>(
  begin: (context: HostWorkerContext<Data>) => WorkerBody | Promise<WorkerBody>,
): Promise<void> {
  return runWorker<Data>(
    ({ pump = "blocking" }) => pump,
    (context) => begin({ ...context, memory: attachGuestMemory(context.data.memory) }),
  );
}
