import type { ScsiDisk, StorvscController } from "@hyperv-is/hv-storvsc";
import { driver } from "@hyperv-is/hv-storvsc/module";
import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import type { Vcpu } from "@hyperv-is/platform-node";
import { CallLink, RemoteQueues, Vmbus, localQueue } from "@hyperv-is/vmbus-core";
import type { ApplicationProcedures, BootProcedures } from "./application-processor.js";
import type { ReadPlan } from "./read-load.js";
import { Reader, type CountingProcessor, type ReadOptions, type ReadOutcome } from "./reader.js";

/** What the program of a virtual processor is given. */
export interface VcpuProgramData {
  readonly state: ArrayBufferLike;
  /** Channels that the disk's controller is to have. */
  readonly channels: number;
  /** Virtual processors: 1, which then has all channels, or one for each channel. */
  readonly processors: number;
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

/** Another processor, from here. */
class RemoteProcessor {
  readonly queues: RemoteQueues;
  readonly calls: CallLink<BootProcedures, ApplicationProcedures>;
  #online: () => void = () => undefined;
  /** Resolves when its bus can be used. */
  readonly online = new Promise<void>((resolve) => (this.#online = resolve));

  constructor(vcpu: Vcpu<VcpuProgramData>, number: number) {
    this.calls = new CallLink<BootProcedures, ApplicationProcedures>(vcpu.peer(number)!, {
      tellControl: (message) => this.queues.tellControl(message),
      online: () => this.#online(),
    });
    // If its worker fails, the machine says so, and ends.
    this.queues = new RemoteQueues(number, this.calls, new Promise(() => undefined));
  }
}

/** The guest: one disk, and a load on each of its channels. */
export class BootProcessor {
  readonly #vcpu: Vcpu<VcpuProgramData>;
  readonly #reader: Reader;
  readonly #vmbus: Vmbus;
  readonly #others: readonly RemoteProcessor[];
  #controller: StorvscController | undefined;
  /** The disk, as each channel of this processor has it. */
  #disks: readonly ScsiDisk[] = [];
  #powerOff: () => void = () => undefined;
  readonly #poweredOff = new Promise<void>((resolve) => (this.#powerOff = resolve));

  constructor(vcpu: Vcpu<VcpuProgramData>, processor: CountingProcessor) {
    this.#vcpu = vcpu;
    this.#reader = new Reader(vcpu, processor);
    const vpIndexes = Array.from({ length: vcpu.data.program.processors }, (_, vp) => vp);
    this.#vmbus = new Vmbus({ cpu: vcpu.cpu, hypervisor: vcpu.hypervisor, vpIndexes });
    this.#others = vpIndexes.slice(1).map((number) => new RemoteProcessor(vcpu, number));
  }

  async main(): Promise<void> {
    const { cpu, timers, starter, data } = this.#vcpu;
    const { channels, processors } = data.program;
    cpu.start();
    await Promise.all(this.#others.map(({ online }) => online));
    await this.#vmbus.connect();
    await this.#vmbus.requestOffers();
    const device = this.#vmbus.devices.find(({ classId }) => classId === StorageClassId.scsi);
    if (device === undefined) throw new Error("the host offers no SCSI controller");
    this.#controller = await driver.control({
      device,
      timers,
      // The driver asks for a channel for each processor that it takes itself to have.
      cpus: Array.from({ length: channels }, (_, channel) => channel % processors),
      tunable: () => undefined,
      log: () => undefined,
      startQueue: async (number, description, told) => {
        const remote = this.#others[number - 1];
        if (remote === undefined) return localQueue(number, driver.queue(cpu, description, told));
        return { ...(await remote.queues.start(driver.name, description, told)), local: undefined };
      },
    });
    const [, ...subChannels] = this.#controller.channels;
    // Sub-channels are told of their disks by messages that are on their way.
    await Promise.all(subChannels.map(({ handle }) => handle.ask({ kind: "inspect" })));
    this.#disks = [
      this.#controller,
      ...subChannels.flatMap(({ handle }) => handle.local ?? []),
    ].flatMap(({ disks }) => disks);
    const [disk] = this.#disks;
    if (disk === undefined) throw new Error("the controller has no disk");
    const used = this.#disks.length + this.#others.length;
    if (used !== channels || this.#controller.channels.length !== channels)
      throw new Error(`the disk has ${used} of ${channels} channels`);
    const { blocks, blockBytes } = disk;
    starter.send({ kind: "ready", blocks, blockBytes } satisfies GuestReply);
    await this.#poweredOff;
    await this.#controller.detach();
    await Promise.all(this.#others.map(({ calls }) => calls.call("halt", undefined)));
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

  /** A message of another processor. */
  receiveFrom(number: number, message: unknown): void {
    this.#others[number - 1]?.calls.receive(message);
  }

  /** Has every processor read its share. */
  async #read(plan: ReadPlan, options: ReadOptions): Promise<ReadOutcome> {
    const { channels } = this.#vcpu.data.program;
    const share = { ...plan, requests: Math.ceil(plan.requests / channels) };
    const { sampleHeap = false, signalOptimizationOff = false } = options;
    const shareOptions = { sampleHeap, signalOptimizationOff };
    const from = performance.now();
    const outcomes = await Promise.all([
      this.#reader.read(this.#disks, share, shareOptions),
      ...this.#others.map(({ calls }) =>
        calls.call("read", { plan: share, options: shareOptions }),
      ),
    ]);
    const seconds = (performance.now() - from) / 1e3;
    const total = (of: (outcome: ReadOutcome) => number): number =>
      outcomes.reduce((sum, outcome) => sum + of(outcome), 0);
    return {
      seconds,
      sum: total(({ sum }) => sum) >>> 0,
      interrupts: total(({ interrupts }) => interrupts),
      signals: total(({ signals }) => signals),
      heapGrowthBytes: total(({ heapGrowthBytes }) => heapGrowthBytes),
    };
  }
}
