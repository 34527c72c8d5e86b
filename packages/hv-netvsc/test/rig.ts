import {
  GuestMemory,
  PageAllocator,
  localQueue,
  type ChannelDescription,
  type ChannelHandler,
  type Gpadl,
  type QueueContext,
  type QueueHandle,
  type SubChannel,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import {
  connectedChannels,
  VirtualTimers,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import {
  attachNetvsc,
  type NetvscInterface,
  type NetvscOptions,
  type NetvscQueueHalf,
} from "../src/index.js";
import type { NetvscContext } from "../src/netvsc-context.js";
import * as driver from "../src/module.js";
import { ScriptedAdapter, type AdapterFacts } from "./scripted-host.js";

const RING_PAGES = 17;
const CPU_PAGES = 1024;
const RINGS_MAX = 64;

/** Small buffers: the memory of a test is small. */
export const small: NetvscOptions = {
  receiveBufferBytes: 64 * PAGE_SIZE,
  sendBufferBytes: 48 * PAGE_SIZE,
  descriptors: 32,
};

export interface RigOptions {
  readonly cpus?: number;
  readonly ringPages?: number;
  readonly facts?: Partial<AdapterFacts>;
  readonly busVersion?: ProtocolVersion;
}

/** A sub-channel that the host offers. */
export interface Offer {
  readonly relid: number;
  readonly index: number;
  rescind(): void;
}

/** CPUs, a bus with one device, and a scripted adapter behind it: everything that the driver is handed. */
export class Rig {
  readonly timers = new VirtualTimers();
  readonly memory: GuestMemory;
  readonly arenas: readonly PageAllocator[];
  readonly adapter: ScriptedAdapter;
  readonly log: string[] = [];
  /** What the device was asked for, in order. */
  readonly calls: string[] = [];
  readonly gpadls = new Map<number, Gpadl>();
  readonly halves: NetvscQueueHalf[] = [];
  readonly offers: Offer[] = [];
  /** Pairs of rings that are bound, by relid. */
  readonly bound = new Map<number, ConnectedChannels>();
  /** Set to let a step of the bus fail. */
  openError: Error | undefined;
  gpadlError: ((number: number) => Error | undefined) | undefined;
  /** Sub-channels that the host takes back when the primary is closed. */
  rescindsSubChannels = true;
  rescind: () => void = () => undefined;
  readonly context: NetvscContext;
  readonly #ringPages: number;
  readonly #lost: ((error: Error) => void)[] = [];
  #nextGpadl = 0;
  #nextRelid = 14;
  #rings = 0;
  #offerSubChannel: (channel: SubChannel) => void = () => undefined;

  constructor(options: RigOptions = {}) {
    const cpus = options.cpus ?? 1;
    this.#ringPages = options.ringPages ?? RING_PAGES;
    const ringsPages = RINGS_MAX * 2 * this.#ringPages;
    this.memory = new GuestMemory(new ArrayBuffer((ringsPages + cpus * CPU_PAGES) * PAGE_SIZE));
    this.arenas = Array.from(
      { length: cpus },
      (_, cpu) =>
        new PageAllocator(
          this.memory,
          (ringsPages + cpu * CPU_PAGES) * PAGE_SIZE,
          CPU_PAGES * PAGE_SIZE,
        ),
    );
    this.adapter = new ScriptedAdapter(this.memory, options.facts);
    this.adapter.onSubChannels = (count) => {
      for (let index = 1; index <= count; index++) this.offer(index);
    };
    const lost = Array.from(
      { length: cpus },
      (_, cpu) => new Promise<Error>((resolve) => (this.#lost[cpu] = resolve)),
    );
    this.context = {
      timers: this.timers,
      log: (line) => this.log.push(line),
      cpus: Array.from({ length: cpus }, (_, cpu) => cpu),
      startQueue: (cpu, description, told) => {
        this.calls.push(`start on ${cpu}`);
        // Descriptions and messages cross threads: they have to be plain data.
        const half = driver.queue(this.#cpuContext(cpu), structuredClone(description), (message) =>
          told(structuredClone(message)),
        );
        this.halves.push(half);
        const handle = localQueue(cpu, half);
        const remote: QueueHandle<NetvscQueueHalf> = {
          ...handle,
          lost: lost[cpu]!,
          local: cpu === 0 ? half : undefined,
          ask: async (message) => structuredClone(await handle.ask(structuredClone(message))),
        };
        return Promise.resolve(remote);
      },
      device: {
        busVersion: options.busVersion ?? ProtocolVersion.v5_3,
        rescinded: new Promise((resolve) => (this.rescind = resolve)),
        prepareChannel: ({ cpu }) => Promise.resolve(this.#prepare(this.#nextRelid++, 0, cpu)),
        openChannel: () => this.#open(0),
        closeChannel: ({ relid }) => {
          this.calls.push(`close ${relid}`);
          if (this.rescindsSubChannels) for (const offer of this.offers) offer.rescind();
          return Promise.resolve();
        },
        createGpadl: (pageCount) => this.#share(pageCount),
        tearDownGpadl: ({ gpadlId }) => {
          this.calls.push(`teardown ${gpadlId}`);
          const gpadl = this.gpadls.get(gpadlId)!;
          this.gpadls.delete(gpadlId);
          this.arenas[0]!.free(gpadl.address);
          return Promise.resolve();
        },
        onSubChannel: (offered) => (this.#offerSubChannel = offered),
      },
    };
  }

  /** The queue half that lives on a CPU, the newest. */
  half(cpu: number): NetvscQueueHalf {
    return this.halves.findLast(({ port }) => port.description.channel.targetVp === cpu)!;
  }

  /** The newest bound pair of a channel index. */
  pair(index: number): ConnectedChannels {
    const half = this.halves.findLast(
      ({ port }) => port.description.channel.subChannelIndex === index,
    )!;
    return this.bound.get(half.port.description.channel.relid)!;
  }

  loseCpu(cpu: number): void {
    this.#lost[cpu]!(new Error(`cpu${cpu} is gone`));
  }

  /** The host offers a sub-channel. */
  offer(index: number): Offer {
    const relid = this.#nextRelid++;
    let rescind: () => void = () => undefined;
    const channel: Pick<
      SubChannel,
      "relid" | "index" | "rescinded" | "prepareChannel" | "openChannel" | "closeChannel"
    > = {
      relid,
      index,
      rescinded: new Promise((resolve) => (rescind = resolve)),
      prepareChannel: ({ cpu }) => Promise.resolve(this.#prepare(relid, index, cpu)),
      openChannel: () => this.#open(index),
      closeChannel: () => {
        this.calls.push(`close ${relid}`);
        return Promise.resolve();
      },
    };
    const offer = { relid, index, rescind };
    this.offers.push(offer);
    this.#offerSubChannel(channel as SubChannel);
    return offer;
  }

  attach(options: NetvscOptions = {}): Promise<NetvscInterface> {
    return this.settle(attachNetvsc(this.context, { ...small, ...options }));
  }

  /** Delivers every signal there is. */
  run(): void {
    for (const pair of this.bound.values()) pair.run();
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
      const before = this.#moves;
      this.run();
      await new Promise((resolve) => setImmediate(resolve));
      if (settled as boolean) return promise;
      if (this.#moves !== before) idle = 0;
      else if (++idle > 4) {
        const wait = this.timers.nextMs - this.timers.now();
        if (this.timers.nextMs > limit) throw new Error("the promise does not settle");
        this.timers.advance(wait);
        idle = 0;
      }
    }
  }

  /** Lets everything happen that can happen without time. */
  async rest(): Promise<void> {
    for (let idle = 0; idle < 6; idle++) {
      const before = this.#moves;
      this.run();
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#moves !== before) idle = 0;
    }
  }

  get #moves(): number {
    return this.adapter.messages.length + this.adapter.completions.length + this.calls.length;
  }

  #cpuContext(cpu: number): QueueContext {
    return {
      memory: this.memory,
      allocator: this.arenas[cpu]!,
      timers: this.timers,
      bindChannel: (description, handler) => this.#bind(description, handler),
      unbindChannel: ({ relid }, reason = "closed") => {
        this.calls.push(`unbind ${relid} ${reason}`);
        const guest = this.bound.get(relid)?.left;
        if (guest === undefined) return;
        if (reason === "rescinded") guest.poll(guest.incoming.sizeBytes);
        guest.close(reason);
      },
    };
  }

  #bind(description: ChannelDescription, handler: ChannelHandler) {
    const { relid, subChannelIndex, ringAddress: address } = description;
    this.calls.push(`bind ${relid}`);
    const host = this.adapter.channel(subChannelIndex);
    const pair = connectedChannels({
      left: handler,
      right: host,
      memory: this.memory,
      ringPages: this.#ringPages,
      address,
    });
    host.channel = pair.right;
    this.bound.set(relid, pair);
    return pair.left;
  }

  #prepare(relid: number, index: number, cpu: number): ChannelDescription {
    this.calls.push(`prepare ${relid} on ${cpu}`);
    if (this.#rings === RINGS_MAX) throw new Error("the rig has no more rings");
    return {
      relid,
      subChannelIndex: index,
      targetVp: cpu,
      ringAddress: this.#rings++ * 2 * this.#ringPages * PAGE_SIZE,
      outgoingPages: this.#ringPages,
      incomingPages: this.#ringPages,
      signal: { connectionId: relid },
    };
  }

  #open(index: number): Promise<void> {
    this.calls.push(`open ${index}`);
    return this.openError === undefined ? Promise.resolve() : Promise.reject(this.openError);
  }

  #share(pageCount: number): Promise<Gpadl> {
    const gpadlId = 0xe1e10 + this.#nextGpadl++;
    this.calls.push(`share ${pageCount}`);
    const error = this.gpadlError?.(this.#nextGpadl);
    const address = this.arenas[0]!.allocate(pageCount);
    if (error !== undefined || address === undefined) {
      if (address !== undefined) this.arenas[0]!.free(address);
      return Promise.reject(error ?? new Error("no memory to share"));
    }
    const gpadl = { gpadlId, address, pageCount };
    this.gpadls.set(gpadlId, gpadl);
    this.adapter.gpadls.set(gpadlId, { address, lengthBytes: pageCount * PAGE_SIZE });
    return Promise.resolve(gpadl);
  }
}

/** Rejects with the error's code, for `expect(...)`. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
  return "resolved";
}
