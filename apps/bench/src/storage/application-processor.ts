import type { StorvscQueueHalf } from "@hyperv-is/hv-storvsc";
import type { Vcpu } from "@hyperv-is/platform-node";
import {
  CallLink,
  QueueTable,
  type ControlProcedures,
  type QueueHalf,
  type QueueProcedures,
} from "@hyperv-is/vmbus-core";
import type { VcpuProgramData } from "./boot-processor.js";
import type { ReadPlan } from "./read-load.js";
import { Reader, type CountingProcessor, type ReadOptions, type ReadOutcome } from "./reader.js";

/** What the boot processor calls for. */
export interface ApplicationProcedures extends QueueProcedures {
  /** Carries a plan out on the channel that is bound to the processor. */
  read(request: { readonly plan: ReadPlan; readonly options: ReadOptions }): Promise<ReadOutcome>;
  /** Ends the processor: its channel is closed by now. */
  halt(nothing: undefined): void;
}

/** What another processor calls for on the boot processor. */
export interface BootProcedures extends ControlProcedures {
  online(nothing: undefined): void;
}

/** The queue half of the driver of disks is the only one that comes here. */
type DiskQueueHalf = QueueHalf & Partial<Pick<StorvscQueueHalf, "disks">>;

/** A processor beside the boot processor: the data plane of one channel. */
export class ApplicationProcessor {
  readonly #vcpu: Vcpu<VcpuProgramData>;
  readonly #calls: CallLink<ApplicationProcedures, BootProcedures>;
  #half: DiskQueueHalf | undefined;
  #halt: () => void = () => undefined;
  readonly #halted = new Promise<void>((resolve) => (this.#halt = resolve));

  constructor(vcpu: Vcpu<VcpuProgramData>, processor: CountingProcessor) {
    this.#vcpu = vcpu;
    const reader = new Reader(vcpu, processor);
    const queues = new QueueTable(
      ({ driver, description }, tell) => (this.#half = vcpu.startQueue(driver, description, tell)),
      (queue, message) =>
        void this.#calls.call("tellControl", { queue, message }).catch(() => undefined),
    );
    this.#calls = new CallLink<ApplicationProcedures, BootProcedures>(vcpu.peer(0)!, {
      startQueue: (request) => queues.startQueue(request),
      askQueue: (request) => queues.askQueue(request),
      stopQueue: (request) => queues.stopQueue(request),
      read: ({ plan, options }) => reader.read(this.#half?.disks ?? [], plan, options),
      halt: () => this.#halt(),
    });
  }

  async main(): Promise<void> {
    this.#vcpu.cpu.start();
    await this.#calls.call("online", undefined);
    await this.#halted;
    this.#vcpu.cpu.stop();
  }

  /** A message of the boot processor. */
  receive(message: unknown): void {
    this.#calls.receive(message);
  }
}
