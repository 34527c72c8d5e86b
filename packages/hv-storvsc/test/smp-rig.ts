import {
  CallLink,
  PageAllocator,
  QueueTable,
  RemoteQueues,
  messageLinkPair,
  type ChannelDescription,
  type ControlProcedures,
  type QueueContext,
  type QueueProcedures,
  type SubChannel,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, type ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { connectedChannels, type ConnectedChannels } from "@hyperv-is/vmbus-core/testing";
import * as driver from "../src/module.js";
import type { ScsiDisk, StorvscQueueHalf } from "../src/index.js";
import { VstorOperation, parseSubChannelCount } from "../src/protocol/index.js";
import { RamTarget } from "./ram-target.js";
import { Rig } from "./rig.js";
import { ScriptedHost, reply } from "./scripted-host.js";

const RING_PAGES = 17;
const ARENA_PAGES = 512;

/** A CPU besides the boot processor: the queue halves on it, behind a line. */
export class RemoteCpu {
  readonly number: number;
  readonly allocator: PageAllocator;
  readonly halves: StorvscQueueHalf[] = [];
  /** Channels that are bound to it, by relid. */
  readonly bound = new Map<number, ConnectedChannels>();
  readonly queues: RemoteQueues;
  /** Messages that went over its line. */
  messages = 0;
  /** Set to let it fail to make a queue half. */
  startError: Error | undefined;
  readonly #near: CallLink<ControlProcedures, QueueProcedures>;
  readonly #far: CallLink<QueueProcedures, ControlProcedures>;
  readonly #link = messageLinkPair(
    () => undefined,
    () => undefined,
  );
  #lose: (reason: Error) => void = () => undefined;
  #isLost = false;

  constructor(rig: SmpRig, number: number, arenaAddress: number) {
    this.number = number;
    this.allocator = new PageAllocator(rig.memory, arenaAddress, ARENA_PAGES * PAGE_SIZE);
    const context: QueueContext = {
      memory: rig.memory,
      allocator: this.allocator,
      timers: rig.timers,
      bindChannel: (description, handler) => {
        const { relid, ringAddress: address } = description;
        rig.calls.push(`bind ${relid} on ${number}`);
        const host = rig.hostOf(relid);
        const { memory } = rig;
        const pair = connectedChannels({
          left: handler,
          right: host,
          memory,
          address,
          ringPages: RING_PAGES,
        });
        host.channel = pair.right;
        this.bound.set(relid, pair);
        return pair.left;
      },
      unbindChannel: ({ relid }, reason = "closed") => {
        const guest = this.bound.get(relid)?.left;
        if (guest === undefined) return;
        rig.calls.push(`unbind ${relid} ${reason}`);
        this.bound.delete(relid);
        if (reason === "rescinded") guest.poll(guest.incoming.sizeBytes);
        guest.close(reason);
      },
    };
    this.#near = new CallLink<ControlProcedures, QueueProcedures>(this.#link.left, {
      tellControl: (message) => this.queues.tellControl(message),
    });
    const lost = new Promise<Error>((resolve) => (this.#lose = resolve));
    this.queues = new RemoteQueues(number, this.#near, lost);
    const table = new QueueTable(
      ({ description }, tell) => {
        if (this.startError !== undefined) throw this.startError;
        const half = driver.queue(context, description, tell);
        this.halves.push(half);
        return half;
      },
      (queue, message) => void this.#far.call("tellControl", { queue, message }),
    );
    this.#far = new CallLink<QueueProcedures, ControlProcedures>(this.#link.right, table);
  }

  /** Its face of the disk at LUN `lun` of target 0. */
  disk(lun = 0): ScsiDisk {
    const disk = this.halves.at(-1)?.disks.find((candidate) => candidate.lun === lun);
    if (disk === undefined) throw new Error(`cpu${this.number} knows no disk ${lun}`);
    return disk;
  }

  /** Ends the CPU, whatever it was doing. */
  lose(): void {
    this.#isLost = true;
    const reason = new Error(`cpu${this.number} is gone`);
    this.#near.close(reason);
    this.#lose(reason);
  }

  run(): void {
    if (this.#isLost) return;
    const { left, right } = this.#link;
    for (let next = right.receive(); next !== undefined; next = right.receive()) {
      this.messages++;
      this.#far.receive(next);
    }
    for (let next = left.receive(); next !== undefined; next = left.receive()) {
      this.messages++;
      this.#near.receive(next);
    }
    for (const pair of this.bound.values()) pair.run();
  }
}

/** A sub-channel that the host offers. */
export interface Offer {
  readonly relid: number;
  readonly host: ScriptedHost;
  rescind(): void;
}

export interface SmpRigOptions {
  readonly cpus: number;
  /** Sub-channels that the host allows. */
  readonly subChannels: number;
  /** What the host does about CREATE_SUB_CHANNELS, before it answers; offers them unless told. */
  readonly onCreate?: (rig: SmpRig, count: number) => void;
  /** Status of that answer. */
  readonly createStatus?: number;
  readonly busVersion?: ProtocolVersion;
}

/** Several CPUs, and a controller that has sub-channels: all in one thread, each CPU behind its line. */
export class SmpRig extends Rig {
  readonly cpus: readonly RemoteCpu[];
  /** What the guest asked for by CREATE_SUB_CHANNELS. */
  readonly created: number[] = [];
  readonly offers: Offer[] = [];
  /** Set to let the opening of a sub-channel fail. */
  subChannelOpenError: Error | undefined;
  readonly #hosts = new Map<number, ScriptedHost>();
  readonly #ringsAddress: number;

  constructor({ cpus, subChannels, onCreate, createStatus = 0, busVersion }: SmpRigOptions) {
    // The boot processor's memory, then the arenas of the others, then the rings of sub-channels.
    const bootPages = 2048;
    const ringsPage = bootPages + cpus * ARENA_PAGES;
    super({
      memoryPages: ringsPage + 32 * 2 * RING_PAGES,
      arenaPages: bootPages,
      target: new RamTarget({ subChannels }),
      ...(busVersion !== undefined && { busVersion }),
    });
    this.#ringsAddress = ringsPage * PAGE_SIZE;
    this.cpus = Array.from(
      { length: cpus - 1 },
      (_, index) => new RemoteCpu(this, index + 1, (bootPages + index * ARENA_PAGES) * PAGE_SIZE),
    );
    const { context } = this;
    this.context = {
      ...context,
      cpus: Array.from({ length: cpus }, (_, cpu) => cpu),
      startQueue: async (cpu, description, told) => {
        const remote = this.cpus.find(({ number }) => number === cpu);
        if (remote === undefined) return context.startQueue(cpu, description, told);
        this.calls.push(`start on ${cpu}`);
        const handle = await remote.queues.start(driver.name, description, told);
        return { ...handle, local: undefined };
      },
    };
    const { script } = this.host;
    this.host.script = (request, host) => {
      if (request.operation !== VstorOperation.createSubChannels) return script(request, host);
      const count = parseSubChannelCount(request.packet)!;
      this.created.push(count);
      if (onCreate !== undefined) onCreate(this, count);
      else for (let index = 1; index <= count; index++) this.offer(index);
      return reply(request.packet.byteLength, createStatus);
    };
  }

  /** The host's end of a sub-channel. */
  hostOf(relid: number): ScriptedHost {
    let host = this.#hosts.get(relid);
    if (host === undefined) {
      host = new ScriptedHost(this.memory, this.target.script);
      this.#hosts.set(relid, host);
    }
    return host;
  }

  /** The host offers a sub-channel. */
  offer(index: number): Offer {
    const relid = 20 + this.offers.length;
    const ringAddress = this.#ringsAddress + this.offers.length * 2 * RING_PAGES * PAGE_SIZE;
    let rescind: () => void = () => undefined;
    const description: ChannelDescription = {
      relid,
      subChannelIndex: index,
      targetVp: 0,
      ringAddress,
      outgoingPages: RING_PAGES,
      incomingPages: RING_PAGES,
      signal: { connectionId: relid },
    };
    const channel: Pick<
      SubChannel,
      "relid" | "index" | "rescinded" | "prepareChannel" | "openChannel" | "closeChannel"
    > = {
      relid,
      index,
      rescinded: new Promise((resolve) => (rescind = resolve)),
      prepareChannel: ({ cpu }) => {
        this.calls.push(`prepare ${relid} on ${cpu}`);
        return Promise.resolve({ ...description, targetVp: cpu });
      },
      openChannel: () => {
        this.calls.push(`open ${relid}`);
        return this.subChannelOpenError === undefined
          ? Promise.resolve()
          : Promise.reject(this.subChannelOpenError);
      },
      closeChannel: () => {
        this.calls.push(`close ${relid}`);
        return Promise.resolve();
      },
    };
    const offer: Offer = { relid, host: this.hostOf(relid), rescind };
    this.offers.push(offer);
    this.offerSubChannel(channel as SubChannel);
    return offer;
  }

  override run(): void {
    super.run();
    for (const cpu of this.cpus) cpu.run();
  }

  protected override get moves(): number {
    const requests = [...this.#hosts.values()].map((host) => host.requests.length);
    const messages = this.cpus.map((cpu) => cpu.messages);
    return [...requests, ...messages].reduce((sum, count) => sum + count, super.moves);
  }
}
