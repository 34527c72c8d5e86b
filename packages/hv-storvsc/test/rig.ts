import {
  GuestMemory,
  PageAllocator,
  localQueue,
  type ChannelDescription,
  type QueueContext,
  type SubChannel,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import {
  connectedChannels,
  type ConnectedChannels,
  VirtualTimers,
} from "@hyperv-is/vmbus-core/testing";
import { attachStorvsc, type StorvscController, type StorvscOptions } from "../src/index.js";
import type { StorvscContext } from "../src/storvsc-context.js";
import * as driver from "../src/module.js";
import { StorageClassId } from "../src/protocol/index.js";
import { RamTarget } from "./ram-target.js";
import { ScriptedHost } from "./scripted-host.js";

export interface RigOptions {
  readonly ringPages?: number;
  readonly memoryPages?: number;
  /** Pages of it, from the start, that are the CPU's; all unless told. */
  readonly arenaPages?: number;
  readonly target?: RamTarget;
  readonly classId?: string;
  readonly instanceId?: string;
  readonly busVersion?: ProtocolVersion;
}

/** A CPU, a bus with one device, and a scripted host behind it: everything that the driver is handed. */
export class Rig {
  readonly timers = new VirtualTimers();
  readonly memory: GuestMemory;
  readonly allocator: PageAllocator;
  readonly target: RamTarget;
  readonly host: ScriptedHost;
  readonly log: string[] = [];
  /** What the device was asked for, in order. */
  readonly calls: string[] = [];
  openUserData: Uint8Array | undefined;
  /** Set to let opening fail. */
  openError: Error | undefined;
  connected: ConnectedChannels | undefined;
  rescind: () => void = () => undefined;
  offerSubChannel: (channel: SubChannel) => void = () => undefined;
  readonly queueContext: QueueContext;
  context: StorvscContext;
  readonly #ringPages: number;

  constructor(options: RigOptions = {}) {
    const pages = options.memoryPages ?? 2048;
    const ringPages = (this.#ringPages = options.ringPages ?? 17);
    this.memory = new GuestMemory(new ArrayBuffer(pages * PAGE_SIZE));
    const arenaPages = options.arenaPages ?? pages;
    this.allocator = new PageAllocator(
      this.memory,
      2 * ringPages * PAGE_SIZE,
      (arenaPages - 2 * ringPages) * PAGE_SIZE,
    );
    this.target = options.target ?? new RamTarget();
    this.host = new ScriptedHost(this.memory, this.target.script);
    this.queueContext = {
      memory: this.memory,
      allocator: this.allocator,
      timers: this.timers,
      bindChannel: (_, handler) => {
        this.calls.push("bind");
        const { memory, host } = this;
        this.connected = connectedChannels({ left: handler, right: host, memory, ringPages });
        host.channel = this.connected.right;
        return this.connected.left;
      },
      unbindChannel: (_, reason = "closed") => {
        this.calls.push(`unbind ${reason}`);
        const guest = this.connected!.left;
        if (reason === "rescinded") guest.poll(guest.incoming.sizeBytes);
        guest.close(reason);
      },
    };
    this.context = {
      timers: this.timers,
      log: (line) => this.log.push(line),
      cpus: [0],
      startQueue: (cpu, description, told) => {
        this.calls.push(`start on ${cpu}`);
        // A description crosses threads: it has to be plain data.
        const half = driver.queue(this.queueContext, structuredClone(description), told);
        return Promise.resolve(localQueue(cpu, half));
      },
      device: {
        classId: options.classId ?? StorageClassId.scsi,
        instanceId: options.instanceId ?? "f8b3781a-1e82-4818-a1c3-63d806ec15bb",
        busVersion: options.busVersion ?? ProtocolVersion.v5_3,
        rescinded: new Promise((resolve) => (this.rescind = resolve)),
        prepareChannel: ({ outgoingPages, incomingPages, cpu }) => {
          this.calls.push(`prepare ${outgoingPages}+${incomingPages} on ${cpu}`);
          return Promise.resolve(this.description);
        },
        openChannel: (_, userData) => {
          this.calls.push("open");
          this.openUserData = userData;
          return this.openError === undefined ? Promise.resolve() : Promise.reject(this.openError);
        },
        closeChannel: () => {
          this.calls.push("close");
          return Promise.resolve();
        },
        onSubChannel: (offered) => (this.offerSubChannel = offered),
      },
    };
  }

  get description(): ChannelDescription {
    return {
      relid: 14,
      subChannelIndex: 0,
      targetVp: 0,
      ringAddress: 0,
      outgoingPages: this.#ringPages,
      incomingPages: this.#ringPages,
      signal: { connectionId: 7 },
    };
  }

  /** Delivers every signal there is. */
  run(): void {
    this.connected?.run();
  }

  attach(options?: StorvscOptions): Promise<StorvscController> {
    return this.settle(attachStorvsc(this.context, options));
  }

  /**
   * Runs both ends, and time when nothing else moves, until the promise is settled. Fails after `maxMs` of
   * virtual time, so that what never comes fails instead of hanging.
   */
  async settle<T>(promise: Promise<T>, maxMs = 1_000_000): Promise<T> {
    let settled = false;
    const done = (): void => {
      settled = true;
    };
    promise.then(done, done);
    const limit = this.timers.now() + maxMs;
    for (let idle = 0; ;) {
      const before = this.moves;
      this.run();
      await new Promise((resolve) => setImmediate(resolve));
      if (settled as boolean) return promise;
      if (this.moves !== before) idle = 0;
      else if (++idle > 2) {
        const wait = this.timers.nextMs - this.timers.now();
        if (this.timers.nextMs > limit) throw new Error("the promise does not settle");
        this.timers.advance(wait);
        idle = 0;
      }
    }
  }

  /** Lets everything happen that can happen without time. */
  async rest(): Promise<void> {
    for (let idle = 0; idle < 5; idle++) {
      const before = this.moves;
      this.run();
      await new Promise((resolve) => setImmediate(resolve));
      if (this.moves !== before) idle = 0;
    }
  }

  /** Grows with everything that happens at the host. */
  protected get moves(): number {
    return this.host.requests.length;
  }
}

/** Rejects with the error's code, for `expect(...).rejects`. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
  return "resolved";
}
