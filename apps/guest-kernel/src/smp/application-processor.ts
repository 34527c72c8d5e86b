import type { NetvscQueueHalf } from "@hyperv-is/hv-netvsc";
import type { ScsiDisk, StorvscQueueHalf } from "@hyperv-is/hv-storvsc";
import {
  CallLink,
  QueueTable,
  type ChannelDescription,
  type MessageLink,
  type QueueHalf,
} from "@hyperv-is/vmbus-core";
import type { Vcpu } from "@hyperv-is/platform-node";
import { usePort, type PortUse } from "../net/hn/port-use.js";
import { KthreadTable } from "./kthread-table.js";
import type { ApplicationProcedures, BootProcedures } from "./procedures.js";
import type { VcpuProgramData } from "./vcpu.js";

/** Number of the boot processor. */
export const BOOT_CPU = 0;

/** What the halves of drivers are on each CPU; a module brings classes of its own. */
type DriverQueueHalf = QueueHalf &
  Partial<Pick<StorvscQueueHalf, "disks"> & Pick<NetvscQueueHalf, "port">>;

/**
 * A CPU besides the boot processor: the data plane of the channels that are bound to it. It does what the boot
 * processor calls for, until that halts it.
 */
export class ApplicationProcessor {
  readonly #vcpu: Vcpu<VcpuProgramData>;
  readonly #calls: CallLink<ApplicationProcedures, BootProcedures>;
  /** By relid of their channels. One whose channel has closed has no disks. */
  readonly #queueHalves = new Map<number, DriverQueueHalf>();
  #halt: () => void = () => undefined;
  readonly #halted = new Promise<void>((resolve) => (this.#halt = resolve));

  constructor(vcpu: Vcpu<VcpuProgramData>) {
    this.#vcpu = vcpu;
    const queues = new QueueTable(
      ({ driver, description }, tell) => {
        const half = vcpu.startQueue(driver, description, tell);
        // Every driver describes a queue by its channel, among others.
        const { channel } = description as { readonly channel: ChannelDescription };
        this.#queueHalves.set(channel.relid, half);
        return half;
      },
      (queue, message) => this.#quietly(this.#calls.call("tellControl", { queue, message })),
    );
    const kthreads = new KthreadTable({
      cpu: vcpu.index,
      memory: vcpu.memory,
      allocator: vcpu.cpu.allocator,
      timers: vcpu.timers,
      during: (work) => vcpu.during(work),
      findDisk: (name) => this.#findDisk(name),
      log: (line) => this.#quietly(this.#calls.call("print", line)),
    });
    this.#calls = new CallLink(lineToBoot(vcpu), {
      startQueue: (request) => queues.startQueue(request),
      askQueue: (request) => queues.askQueue(request),
      stopQueue: (request) => queues.stopQueue(request),
      loadKthread: (request) => kthreads.loadKthread(request),
      runKthread: (request) => kthreads.runKthread(request),
      stopKthread: (request) => kthreads.stopKthread(request),
      usePort: (use) => this.#usePort(use),
      ping: () => undefined,
      optimizeSignals: (wanted) => {
        vcpu.cpu.signalOptimization = wanted;
      },
      halt: () => this.#halt(),
    });
  }

  /** From the first instruction to the last. */
  async run(): Promise<void> {
    const { cpu, data } = this.#vcpu;
    for (const { path, importable } of data.program.modules)
      await this.#vcpu.loadDriver(importable, path);
    cpu.start();
    await this.#calls.call("online", undefined);
    await this.#halted;
    cpu.stop();
  }

  /** A message of the boot processor. */
  receive(message: unknown): void {
    this.#calls.receive(message);
  }

  /** The boot processor knows the name, and this CPU has the face of the disk. */
  async #findDisk(name: string): Promise<ScsiDisk> {
    const { relid, target, lun } = await this.#calls.call("findDisk", name);
    const disks = this.#queueHalves.get(relid)?.disks ?? [];
    const disk = disks.find((candidate) => candidate.target === target && candidate.lun === lun);
    if (disk === undefined)
      throw new Error(`cpu${this.#vcpu.index} has lost its channel to ${name}`);
    return disk;
  }

  #usePort(use: PortUse): void {
    const { memory, cpu, doorbell, index } = this.#vcpu;
    const port = this.#queueHalves.get(use.relid)?.port;
    if (port === undefined) throw new Error(`cpu${index} has no port of channel ${use.relid}`);
    port.user = usePort(port, use, {
      memory,
      allocator: cpu.allocator,
      doorbell,
      drive: (pumped) => this.#vcpu.drive(pumped),
      watch: (fd) => this.#vcpu.watch(fd),
      deliver: (frames) => this.#calls.call("deliverFrames", frames),
    });
  }

  /** The boot processor may be gone by the time it would answer. */
  #quietly(call: Promise<unknown>): void {
    call.catch(() => undefined);
  }
}

function lineToBoot(vcpu: Vcpu<VcpuProgramData>): MessageLink {
  const line = vcpu.peer(BOOT_CPU);
  if (line === undefined) throw new Error("there is no line to the boot processor");
  return line;
}
