import { pathToFileURL } from "node:url";
import { type DiskCompletions, type DiskQueue, type ScsiDisk } from "@hyperv-is/hv-storvsc";
import {
  VmbusError,
  type GuestMemory,
  type PageAllocator,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { ScsiBlockDevice } from "../cam/scsi-block-device.js";
import type { GuestBuffer } from "../kernel/block-device.js";
import type { KthreadContext, KthreadDisk, KthreadModule, KthreadProcedures } from "./kthread.js";

/** The CPU that threads run on. */
export interface KthreadHome {
  readonly cpu: number;
  readonly memory: GuestMemory;
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** See `KthreadContext`. */
  during<T>(work: Promise<T>): Promise<T>;
  /** This CPU's face of a disk. */
  findDisk(name: string): Promise<ScsiDisk>;
  log(line: string): void;
}

/** The kernel threads of one CPU. */
export class KthreadTable implements KthreadProcedures {
  readonly #home: KthreadHome;
  readonly #threads = new Map<number, Kthread>();

  constructor(home: KthreadHome) {
    this.#home = home;
  }

  async loadKthread({
    id,
    name,
    file,
  }: Parameters<KthreadProcedures["loadKthread"]>[0]): Promise<void> {
    const module = (await this.#home.during(
      import(pathToFileURL(file).href),
    )) as Partial<KthreadModule>;
    if (typeof module.main !== "function") throw new Error(`${file} exports no function main`);
    this.#threads.set(id, new Kthread(this.#home, name, module as KthreadModule));
  }

  async runKthread({ id, args }: Parameters<KthreadProcedures["runKthread"]>[0]): Promise<unknown> {
    const thread = this.#threads.get(id);
    if (thread === undefined) throw new Error(`there is no thread ${id}`);
    try {
      return await thread.run(args);
    } finally {
      this.#threads.delete(id);
    }
  }

  stopKthread({ id }: { readonly id: number }): Promise<void> {
    this.#threads.get(id)?.stop();
    return Promise.resolve();
  }
}

/** One thread: its module, and what it took of its CPU, to be given back in the end. */
class Kthread {
  readonly #home: KthreadHome;
  readonly #name: string;
  readonly #module: KthreadModule;
  readonly #abort = new AbortController();
  readonly #disks: ThreadDisk[] = [];
  readonly #buffers = new Set<number>();

  constructor(home: KthreadHome, name: string, module: KthreadModule) {
    this.#home = home;
    this.#name = name;
    this.#module = module;
  }

  stop(): void {
    this.#abort.abort(new Error("the thread is to end"));
  }

  async run(args: unknown): Promise<unknown> {
    try {
      return await this.#module.main(this.#context(args));
    } finally {
      this.#giveBack();
    }
  }

  #context(args: unknown): KthreadContext {
    const { cpu, memory, timers } = this.#home;
    return {
      name: this.#name,
      cpu,
      args,
      signal: this.#abort.signal,
      memory,
      timers,
      allocateBuffer: (lengthBytes) => this.#allocateBuffer(lengthBytes),
      disk: (name) => this.#disk(name),
      log: (line) => this.#home.log(`${this.#name}: ${line}`),
      during: (work) => this.#home.during(work),
    };
  }

  #allocateBuffer(lengthBytes: number): GuestBuffer {
    const { allocator, memory, cpu } = this.#home;
    const address = allocator.allocate(Math.max(1, Math.ceil(lengthBytes / PAGE_SIZE)));
    if (address === undefined)
      throw new VmbusError("ERR_NO_MEMORY", `cpu${cpu} has no ${lengthBytes} bytes left`);
    this.#buffers.add(address);
    return {
      address,
      bytes: memory.bytes.subarray(address, address + lengthBytes),
      free: () => {
        if (this.#buffers.delete(address)) allocator.free(address);
      },
    };
  }

  async #disk(name: string): Promise<KthreadDisk> {
    const disk = new ThreadDisk(name, await this.#home.findDisk(name), this.#home.memory);
    this.#disks.push(disk);
    return disk;
  }

  /** A thread that ends with commands in flight leaves its memory to the host: that is not used again. */
  #giveBack(): void {
    const isBusy = this.#disks.some((disk) => disk.isBusy);
    for (const disk of this.#disks) disk.close();
    for (const address of this.#buffers)
      if (isBusy) this.#home.allocator.leak(address);
      else this.#home.allocator.free(address);
    if (isBusy && this.#buffers.size > 0)
      this.#home.log(`${this.#name}: ended with commands in flight, its buffers are lost`);
  }
}

/** A disk as one thread has it: knows what of it is in use. */
class ThreadDisk extends ScsiBlockDevice implements KthreadDisk {
  readonly #queues: DiskQueue[] = [];

  override openQueue(depth: number, completions: DiskCompletions): DiskQueue {
    const queue = super.openQueue(depth, completions);
    this.#queues.push(queue);
    return queue;
  }

  get isBusy(): boolean {
    return this.commands > 0 || this.#queues.some(({ inFlight }) => inFlight > 0);
  }

  close(): void {
    for (const queue of this.#queues) queue.close();
  }
}
