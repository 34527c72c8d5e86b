import { MessageChannel, type MessagePort } from "node:worker_threads";
import {
  GuestCpu,
  PageAllocator,
  type Channel,
  type DriverModule,
  type HypervisorPort,
  type MessageLink,
  type QueueHalf,
  type TellControl,
} from "@hyperv-is/vmbus-core";
import { CpuLink } from "./cpu-link.js";
import { Doorbell, DoorbellCause } from "./doorbell.js";
import { importDriver } from "./driver-file.js";
import type { Pumped, PumpKind } from "./pump.js";
import {
  attachGuestMemory,
  type SharedGuestMemory,
  type WasmMemory,
} from "./shared-guest-memory.js";
import { runWorker, type WorkerContext } from "./worker-body.js";

/** What a virtual processor is given when its worker starts; plain data. */
export interface VcpuData<Program = unknown> {
  /** Its number, 0 for the boot processor. */
  readonly index: number;
  readonly memory: WasmMemory;
  /** The guest pages that belong to this processor, in bytes, whole pages. */
  readonly arenaAddress: number;
  readonly arenaBytes: number;
  /** Kind of its pump: unless told async on the boot processor and blocking on the others. */
  readonly pump?: PumpKind;
  /** Driver modules to be loaded from files before the processor begins. */
  readonly driverFiles?: readonly string[];
  /** Lines to the other processors, see `connectCpus`; their ports go into the worker's `transfer`. */
  readonly peers?: readonly CpuPeer[];
  /** Whatever the program needs besides. */
  readonly program: Program;
}

/** One end of the line to another virtual processor. */
export interface CpuPeer {
  /** Number of the other processor. */
  readonly cpu: number;
  readonly port: MessagePort;
  /** The other processor's doorbell. */
  readonly words: Int32Array;
  readonly index: number;
}

/** A line between each two of the processors that own these doorbells: for each of them, its ends. */
export function connectCpus(doorbells: readonly Doorbell[]): CpuPeer[][] {
  const peers: CpuPeer[][] = doorbells.map(() => []);
  for (const [cpu, { words, index }] of doorbells.entries())
    for (let other = 0; other < cpu; other++) {
      const { port1, port2 } = new MessageChannel();
      peers[other]!.push({ cpu, port: port1, words, index });
      const { words: otherWords, index: otherIndex } = doorbells[other]!;
      peers[cpu]!.push({ cpu: other, port: port2, words: otherWords, index: otherIndex });
    }
  return peers;
}

/** What a program sees of the virtual processor that it runs on. */
export interface Vcpu<Program = unknown> extends WorkerContext<VcpuData<Program>> {
  readonly index: number;
  readonly memory: SharedGuestMemory;
  readonly hypervisor: HypervisorPort;
  /** Its share of the bus. */
  readonly cpu: GuestCpu;
  /** Driver modules that are loaded on this processor, by name. */
  readonly drivers: ReadonlyMap<string, DriverModule>;
  /** Loads a driver module from its file on this processor. Rejects as `importDriver` does, whose parameters these are. */
  loadDriver(file: string, shownAs?: string): Promise<DriverModule>;
  /** Makes the queue half of a driver on this processor from the description that its control half published. */
  startQueue(driver: string, description: unknown, tell: TellControl): QueueHalf;
  /** Has the pump drive something besides the bus, as if it were a part of this processor. @returns What ends that. */
  drive(pumped: Pumped): () => void;
  /** The line to another processor; undefined if there is none. */
  peer(cpu: number): MessageLink | undefined;
}

/** The program of a virtual processor. */
export interface VcpuProgram<Program = unknown> {
  /** The hypervisor as this processor meets it. It announces interrupts by ringing the doorbell for `DoorbellCause.interrupt`. */
  hypervisor(
    context: WorkerContext<VcpuData<Program>> & { readonly memory: SharedGuestMemory },
  ): HypervisorPort;
  /** Runs beside the pump. Once it is done the processor ends, with its error if it fails; without it, when it is stopped. */
  main?(vcpu: Vcpu<Program>): Promise<void>;
  /** A message of the machine (`from` is undefined) or of another processor. */
  message?(vcpu: Vcpu<Program>, message: unknown, from: number | undefined): void;
  /** The doorbell rang for causes of the program. */
  rung?(vcpu: Vcpu<Program>, causes: number): void;
  /** The pump has ended. */
  stopped?(vcpu: Vcpu<Program>): void | Promise<void>;
}

/** A channel that is bound outside a drain has to be looked at once, so the pump must not sleep. */
class PumpedCpu extends GuestCpu {
  readonly #doorbell: Doorbell;

  constructor(doorbell: Doorbell, options: ConstructorParameters<typeof GuestCpu>[0]) {
    super(options);
    this.#doorbell = doorbell;
  }

  override bindChannel(...channel: Parameters<GuestCpu["bindChannel"]>): Channel {
    const bound = super.bindChannel(...channel);
    this.#doorbell.ring();
    return bound;
  }
}

/**
 * What the entry file of a virtual processor calls and awaits: memory, hypervisor, bus, pump, drivers.
 *
 * @param drivers - those in tree, imported statically by the entry file; files named in the data are added.
 */
export async function runVcpu<Program = unknown>(
  drivers: readonly DriverModule[],
  program: VcpuProgram<Program>,
): Promise<void> {
  await runWorker<VcpuData<Program>>(
    ({ index, pump = index === 0 ? "async" : "blocking" }) => pump,
    async (context) => {
      const { data, doorbell, timers } = context;
      const memory = attachGuestMemory(data.memory);
      const hypervisor = program.hypervisor({ ...context, memory });
      const allocator = new PageAllocator(memory, data.arenaAddress, data.arenaBytes);
      const cpu = new PumpedCpu(doorbell, { memory, allocator, hypervisor, timers });
      const loaded = new Map(drivers.map((driver) => [driver.name, driver]));
      const peers = new Map<number, MessageLink>();
      const driven: Pumped[] = [];
      const vcpu: Vcpu<Program> = {
        ...context,
        index: data.index,
        memory,
        hypervisor,
        cpu,
        drivers: loaded,
        async loadDriver(file, shownAs) {
          const driver = await context.during(importDriver(file, shownAs));
          loaded.set(driver.name, driver);
          return driver;
        },
        startQueue(driver, description, tell) {
          const found = loaded.get(driver);
          if (found === undefined) throw new Error(`${driver} is not loaded on CPU ${data.index}`);
          return found.queue(cpu, description, tell);
        },
        drive(pumped) {
          driven.push(pumped);
          doorbell.ring();
          return () => {
            const at = driven.indexOf(pumped);
            if (at >= 0) driven.splice(at, 1);
          };
        },
        peer: (other) => peers.get(other),
      };
      for (const { cpu: other, port, words, index } of data.peers ?? []) {
        const link = new CpuLink(port, new Doorbell(words, index));
        peers.set(other, link);
        context.listen(link, (message) => program.message?.(vcpu, message, other));
      }
      for (const file of data.driverFiles ?? []) await vcpu.loadDriver(file);
      return {
        drain() {
          let hasWorked = cpu.run();
          for (const pumped of driven) hasWorked = pumped.drain() || hasWorked;
          return hasWorked;
        },
        rung(causes) {
          if ((causes & DoorbellCause.interrupt) !== 0) cpu.interrupt();
          if ((causes & ~DoorbellCause.interrupt) !== 0)
            program.rung?.(vcpu, causes & ~DoorbellCause.interrupt);
        },
        message: (message) => program.message?.(vcpu, message, undefined),
        ...(program.main && { main: () => program.main!(vcpu) }),
        stopped: () => program.stopped?.(vcpu),
      };
    },
  );
}
