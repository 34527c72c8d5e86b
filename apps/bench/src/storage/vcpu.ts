// Entry of the guest's virtual processor: attaches the disk by its driver, and reads from it as it is told.
import { getHeapStatistics } from "node:v8";
import type { ScsiDisk, StorvscController } from "@hyperv-is/hv-storvsc";
import { driver } from "@hyperv-is/hv-storvsc/module";
import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import {
  DoorbellBells,
  HypervisorState,
  VirtualProcessor,
} from "@hyperv-is/hyperv-host/node/processor";
import { NodeClock, runVcpu, type Vcpu } from "@hyperv-is/platform-node";
import {
  Vmbus,
  localQueue,
  type HypervisorPort,
  type Timer,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { HYPERCALL_CODE_MASK, HypercallCode } from "@hyperv-is/vmbus-core/protocol";
import { ReadLoad, type ReadPlan } from "./read-load.js";

/** What the program of the virtual processor is given. */
export interface VcpuProgramData {
  readonly state: ArrayBufferLike;
  /** Channels that the disk's controller is to have, all of them on this processor. */
  readonly channels: number;
}

/** How a plan is carried out. */
export interface ReadOptions {
  /** Find out what the guest's thread allocates meanwhile. */
  readonly sampleHeap?: boolean;
  /** Signal for each request, and be interrupted for each completion. */
  readonly signalOptimizationOff?: boolean;
}

/** What the machine asks of the guest. */
export type GuestRequest =
  | ({ readonly kind: "read"; readonly plan: ReadPlan } & ReadOptions)
  | { readonly kind: "power-off" };

/** What the guest answers. */
export type GuestReply =
  | { readonly kind: "ready"; readonly blocks: number; readonly blockBytes: number }
  | ({ readonly kind: "done" } & ReadOutcome)
  | { readonly kind: "failed"; readonly message: string };

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
class CountingProcessor implements HypervisorPort {
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

/** The guest: one disk, and a load on each of its channels. */
class Guest {
  readonly #vcpu: Vcpu<VcpuProgramData>;
  readonly #processor: CountingProcessor;
  readonly #vmbus: Vmbus;
  #controller: StorvscController | undefined;
  /** The disk, as each channel has it. */
  #disks: readonly ScsiDisk[] = [];
  #powerOff: () => void = () => undefined;
  readonly #poweredOff = new Promise<void>((resolve) => (this.#powerOff = resolve));

  constructor(vcpu: Vcpu<VcpuProgramData>, processor: CountingProcessor) {
    this.#vcpu = vcpu;
    this.#processor = processor;
    this.#vmbus = new Vmbus({ cpu: vcpu.cpu, hypervisor: vcpu.hypervisor });
  }

  async main(): Promise<void> {
    const { cpu, timers, starter, data } = this.#vcpu;
    const { channels } = data.program;
    cpu.start();
    await this.#vmbus.connect();
    await this.#vmbus.requestOffers();
    const device = this.#vmbus.devices.find(({ classId }) => classId === StorageClassId.scsi);
    if (device === undefined) throw new Error("the host offers no SCSI controller");
    this.#controller = await driver.control({
      device,
      timers,
      // The driver takes it for as many processors: that is how many channels it asks for.
      cpus: Array<number>(channels).fill(0),
      tunable: () => undefined,
      log: () => undefined,
      startQueue: (number, description, told) =>
        Promise.resolve(localQueue(number, driver.queue(cpu, description, told))),
    });
    const [, ...subChannels] = this.#controller.channels;
    // Sub-channels are told of their disks by messages that are on their way.
    await Promise.all(subChannels.map(({ handle }) => handle.ask({ kind: "inspect" })));
    this.#disks = [this.#controller, ...subChannels.map(({ handle }) => handle.local!)].flatMap(
      ({ disks }) => disks,
    );
    const [disk] = this.#disks;
    if (disk === undefined) throw new Error("the controller has no disk");
    if (this.#disks.length !== channels)
      throw new Error(`the disk has ${this.#disks.length} of ${channels} channels`);
    const { blocks, blockBytes } = disk;
    starter.send({ kind: "ready", blocks, blockBytes } satisfies GuestReply);
    await this.#poweredOff;
    await this.#controller.detach();
    await this.#vmbus.unload();
    cpu.stop();
  }

  receive(request: GuestRequest): void {
    if (request.kind === "power-off") {
      this.#powerOff();
      return;
    }
    this.#read(request.plan, request).then(
      (outcome) => this.#vcpu.starter.send({ kind: "done", ...outcome } satisfies GuestReply),
      (error: unknown) =>
        this.#vcpu.starter.send({ kind: "failed", message: String(error) } satisfies GuestReply),
    );
  }

  async #read(
    plan: ReadPlan,
    { sampleHeap = false, signalOptimizationOff = false }: ReadOptions,
  ): Promise<ReadOutcome> {
    const { cpu, memory, timers } = this.#vcpu;
    cpu.signalOptimization = !signalOptimizationOff;
    const share = { ...plan, requests: Math.ceil(plan.requests / this.#disks.length) };
    const loads = this.#disks.map((disk) => new ReadLoad(disk, memory, cpu.allocator, share));
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

let processor: CountingProcessor | undefined;
let guest: Guest | undefined;

await runVcpu<VcpuProgramData>([driver], {
  hypervisor({ data, memory }) {
    const state = new HypervisorState(data.program.state);
    const { index } = data;
    const bells = new DoorbellBells(state);
    processor = new CountingProcessor(
      new VirtualProcessor({ state, memory, index, bells, clock: new NodeClock() }),
    );
    return processor;
  },
  main(vcpu) {
    guest = new Guest(vcpu, processor!);
    return guest.main();
  },
  message: (_vcpu, message) => guest?.receive(message as GuestRequest),
});
