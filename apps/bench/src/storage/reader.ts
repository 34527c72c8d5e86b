import { getHeapStatistics } from "node:v8";
import type { ScsiDisk } from "@hyperv-is/hv-storvsc";
import type { Vcpu } from "@hyperv-is/platform-node";
import type { HypervisorPort, Timer, Timers } from "@hyperv-is/vmbus-core";
import { HYPERCALL_CODE_MASK, HypercallCode } from "@hyperv-is/vmbus-core/protocol";
import { ReadLoad, type ReadPlan } from "./read-load.js";

/** How a plan is carried out. */
export interface ReadOptions {
  /** Find out what the guest's thread allocates meanwhile. */
  readonly sampleHeap?: boolean;
  /** Signal for each request, and be interrupted for each completion. */
  readonly signalOptimizationOff?: boolean;
}

/** What a plan came to. */
export interface ReadOutcome {
  readonly seconds: number;
  /** See `ReadPlan.sum`. */
  readonly sum: number;
  /** Interrupts that the processor took. */
  readonly interrupts: number;
  /** Hypercalls by which it signalled the host. */
  readonly signals: number;
  /** Sum of all increases of the used heap between two samples; 0 unless asked for. */
  readonly heapGrowthBytes: number;
}

/** Distance of two samples of the heap: rare enough to cost nothing, and many between two collections. */
const SAMPLE_MS = 5;

/** A processor that counts the hypercalls that signal the host. */
export class CountingProcessor implements HypervisorPort {
  signals = 0;
  readonly #processor: HypervisorPort;

  constructor(processor: HypervisorPort) {
    this.#processor = processor;
  }

  cpuid(leaf: number): ReturnType<HypervisorPort["cpuid"]> {
    return this.#processor.cpuid(leaf);
  }

  readMsr(msr: number): bigint {
    return this.#processor.readMsr(msr);
  }

  writeMsr(msr: number, value: bigint): void {
    this.#processor.writeMsr(msr, value);
  }

  hypercall(control: number, inputLow: number, inputHigh: number): number {
    if ((control & HYPERCALL_CODE_MASK) === HypercallCode.signalEvent) this.signals++;
    return this.#processor.hypercall(control, inputLow, inputHigh);
  }
}

/**
 * What a thread allocates, as far as samples of its used heap show it: the sum of all increases. What is
 * allocated and collected between two samples is missed.
 */
class HeapGrowth {
  readonly #timers: Timers;
  #timer: Timer;
  #used = getHeapStatistics().used_heap_size;
  #bytes = 0;

  constructor(timers: Timers) {
    this.#timers = timers;
    this.#timer = timers.after(SAMPLE_MS, this.#sample);
  }

  /** Ends the sampling. @returns The sum. */
  end(): number {
    this.#timer.cancel();
    this.#look();
    return this.#bytes;
  }

  readonly #sample = (): void => {
    this.#look();
    this.#timer = this.#timers.after(SAMPLE_MS, this.#sample);
  };

  #look(): void {
    const used = getHeapStatistics().used_heap_size;
    this.#bytes += Math.max(0, used - this.#used);
    this.#used = used;
  }
}

/** Reads on one virtual processor, over the channels that are bound to it. */
export class Reader {
  readonly #vcpu: Pick<Vcpu, "cpu" | "memory" | "timers">;
  readonly #processor: CountingProcessor;

  constructor(vcpu: Pick<Vcpu, "cpu" | "memory" | "timers">, processor: CountingProcessor) {
    this.#vcpu = vcpu;
    this.#processor = processor;
  }

  /** Carries a plan out on each of the channels. @param disks - The disk, as each channel has it. */
  async read(
    disks: readonly ScsiDisk[],
    plan: ReadPlan,
    { sampleHeap = false, signalOptimizationOff = false }: ReadOptions,
  ): Promise<ReadOutcome> {
    const { cpu, memory, timers } = this.#vcpu;
    cpu.signalOptimization = !signalOptimizationOff;
    const loads = disks.map((disk) => new ReadLoad(disk, memory, cpu.allocator, plan));
    const heap = sampleHeap ? new HeapGrowth(timers) : undefined;
    const interrupts = cpu.counters.interrupts;
    const { signals } = this.#processor;
    const from = performance.now();
    await Promise.all(loads.map((load) => load.run()));
    const seconds = (performance.now() - from) / 1e3;
    const outcome = {
      seconds,
      sum: loads.reduce((sum, load) => (sum + load.sum) >>> 0, 0),
      interrupts: cpu.counters.interrupts - interrupts,
      signals: this.#processor.signals - signals,
      heapGrowthBytes: heap?.end() ?? 0,
    };
    for (const load of loads) load.close();
    return outcome;
  }
}
