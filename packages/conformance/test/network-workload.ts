import {
  NetvscError,
  Offload,
  TransmitOffload,
  TransmitResult,
  type NetvscInterface,
  type NetvscQueue,
  type NetvscQueueHalf,
} from "@hyperv-is/hv-netvsc";
import { Oid, PacketFilter, TransmitChecksum } from "@hyperv-is/hv-netvsc/protocol";
import { GpaRanges, VmbusError } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { Prng } from "@hyperv-is/conformance";
import {
  ETHERNET_BYTES,
  LABEL_BYTES,
  buildFrame,
  headerBytesOf,
  isIpv6,
  isTcp,
  transportAt,
  type FlowPlan,
} from "./network-frames.js";
import { USUAL_FILTER, type AdapterPair, type NetworkMachine } from "./network-machine.js";
import { Flow, type Excuses } from "./network-model.js";
import type { Disturbance } from "./network-plan.js";
import { NetworkUser } from "./network-user.js";

/** What the programs of a schedule do. */
export interface NetworkWorkloadPlan {
  readonly flows: readonly FlowPlan[];
  /** Frames of each flow. */
  readonly frames: number;
  /** Frames that are sent one after the other before anything is published. */
  readonly burst: number;
  readonly holdOneIn: number;
  readonly holdMost: number;
  /** Streams are sent in super-frames where the adapter cuts them. */
  readonly superFrames: boolean;
  readonly disturbances: readonly Disturbance[];
  readonly mtus: readonly number[];
}

/** What the frames that were sent became at the ports. */
export interface TrafficTotals {
  /** Frames that were taken, super-frames counted once. */
  sent: number;
  superFrames: number;
  refused: number;
  full: number;
  /** Units that arrived: frames, or segments of a stream. */
  arrived: number;
  spoiled: number;
}

/** Attempts of a flow to find a port, or room, before it gives up. */
const PATIENCE = 60;
const FILLING = 0xee;

/** Programs that send frames through every port of the machine, check what arrives, and disturb its interfaces. */
export class NetworkWorkload {
  readonly totals: TrafficTotals = {
    sent: 0,
    superFrames: 0,
    refused: 0,
    full: 0,
    arrived: 0,
    spoiled: 0,
  };
  /** How disturbances failed. */
  readonly failures: { readonly what: string; readonly code: string }[] = [];
  /** Lent frames whose memory never came back. */
  unreleased = 0;
  readonly #machine: NetworkMachine;
  readonly #prng: Prng;
  readonly #plan: NetworkWorkloadPlan;
  readonly #excuses: Excuses;
  readonly #flows: Flow[];
  readonly #users: NetworkUser[] = [];
  readonly #lent = new Map<number, number>();
  #nextTag = 1;
  #running = 0;
  #error: unknown;

  constructor(machine: NetworkMachine, prng: Prng, plan: NetworkWorkloadPlan, excuses: Excuses) {
    this.#machine = machine;
    this.#prng = prng;
    this.#plan = plan;
    this.#excuses = excuses;
    this.#flows = plan.flows.map((flow) => this.#makeFlow(flow));
    machine.madeQueue = (half, adapter) => this.#use(half, adapter);
  }

  /** Sends and disturbs until everything is sent; rejects with the first thing that was wrong. */
  async run(): Promise<void> {
    const programs = [
      ...this.#flows.map((flow) => this.#send(flow, this.#plan.frames)),
      ...this.#machine.adapters.map((pair, index) => this.#disturb(pair, index)),
    ];
    this.#running = programs.length;
    const holders = this.#releaseHeld();
    await Promise.all(programs.map((program) => program.finally(() => this.#running--)));
    await holders;
    this.throwIfWrong();
  }

  /** A frame through each queue of each adapter arrives, one after the other, as there are no faults any more. */
  async verify(): Promise<void> {
    for (const pair of this.#machine.adapters)
      for (const half of this.#machine.queuesOf(pair)) {
        const to = (pair.index + 1) % this.#machine.adapters.length;
        const plan: FlowPlan = {
          id: this.#flows.length + 1,
          kind: "raw",
          from: pair.index,
          to,
          vlanTag: -1,
        };
        const flow = this.#makeFlow(plan);
        this.#flows.push(flow);
        const sent = this.#transmit(flow, half.port, pair.hn!, LABEL_BYTES);
        half.port.flush();
        if (sent !== TransmitResult.copied && sent !== TransmitResult.lent)
          throw new Error(`an idle port of adapter ${pair.index} answers ${sent}`);
        for (let wait = 0; flow.missing > 0; wait++) {
          if (wait === 100) throw new Error(`a frame of adapter ${pair.index} does not arrive`);
          await this.sleep(5);
          for (const user of this.#users) user.releaseSome(true);
        }
      }
    this.throwIfWrong();
  }

  /** Nothing is held, lent, or on its way. @param lost - Sends that may never end. */
  checkAtRest(lost: number): string | undefined {
    let outstanding = 0;
    for (const pair of this.#machine.adapters) {
      const { receiveSlotsBusy } = pair.host.stats();
      if (receiveSlotsBusy > 0)
        return `${receiveSlotsBusy} receive slots of adapter ${pair.index} have not come back`;
      for (const { port } of this.#machine.queuesOf(pair)) {
        const seen = port.inspect();
        const name = `channel ${String(seen["subChannelIndex"])} of adapter ${pair.index}`;
        const { descriptors } = port.description.tuning;
        const user = this.#users.find((one) => one.port === port)!;
        const taken = descriptors - Number(seen["freeDescriptors"]);
        const sections =
          (user.sections ?? Number(seen["freeSections"])) - Number(seen["freeSections"]);
        outstanding += port.outstanding;
        if (taken !== port.outstanding) return `${name} has lost ${taken - port.outstanding} sends`;
        if (sections > taken) return `${name} has lost ${sections - taken} sections`;
        if (seen["receivePacketsHeld"] !== 0) return `${name} has not completed what it received`;
        if (seen["completionsWaiting"] !== 0) return `${name} has completions in line`;
      }
    }
    if (outstanding > lost) return `${outstanding} sends have not ended, ${lost} may`;
    if (this.#lent.size > outstanding)
      return `${this.#lent.size} lent frames have not come back, of ${outstanding} sends`;
    return undefined;
  }

  releaseAll(): void {
    for (const user of this.#users) user.releaseSome(true);
  }

  /** Units that were sent and have not arrived. */
  get missing(): number {
    return this.#flows.reduce((sum, flow) => sum + flow.missing, 0);
  }

  /** Frames that users got. */
  get received(): number {
    return this.#users.reduce((sum, user) => sum + user.frames, 0);
  }

  throwIfWrong(): void {
    if (this.#error !== undefined) throw this.#error as Error;
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.#machine.timers.after(delayMs, resolve));
  }

  #makeFlow(plan: FlowPlan): Flow {
    const { from, to } = plan;
    const receivers = to === "all" ? this.#machine.adapters.map(({ index }) => index) : [to];
    return new Flow(
      plan,
      receivers.filter((index) => index !== from),
    );
  }

  #wrong(error: unknown): void {
    this.#error ??= error;
  }

  #use({ port }: NetvscQueueHalf, adapter: AdapterPair): void {
    const user = new NetworkUser(adapter, port, this.#prng, this.#plan, {
      arrived: (at, frame, tag) => {
        try {
          const flow = this.#flows[frame.flow - 1];
          if (flow === undefined) throw new Error(`there is no flow ${frame.flow}`);
          this.totals.arrived += flow.arrive(at.index, frame, this.#excuses);
          const { vlanTag } = flow.plan;
          if (tag !== vlanTag) throw new Error(`flow ${frame.flow}: tag ${tag} for ${vlanTag}`);
        } catch (error) {
          this.#wrong(error);
        }
      },
      spoiled: (what) => {
        this.totals.spoiled++;
        if (!this.#excuses.spoils) this.#wrong(new Error(what));
      },
      transmitted: (tag, released) => this.#transmitted(tag, released),
      wrong: (error) => this.#wrong(error),
    });
    this.#users.push(user);
    port.user = user;
  }

  #transmitted(tag: number, released: boolean): void {
    const address = this.#lent.get(tag);
    if (address === undefined) {
      this.#wrong(new Error(`frame ${tag} is not lent, or came back twice`));
      return;
    }
    this.#lent.delete(tag);
    const { programs } = this.#machine;
    if (!released) {
      this.unreleased++;
      programs.leak(address);
      return;
    }
    this.#scribble(address);
    programs.free(address);
  }

  /** What a program does with memory that is its own again. */
  #scribble(address: number): void {
    this.#machine.memory.bytes.fill(FILLING, address, address + PAGE_SIZE);
  }

  async #send(flow: Flow, frames: number): Promise<void> {
    const pair = this.#machine.adapters[flow.plan.from]!;
    let patience = PATIENCE;
    for (let left = frames; left > 0 && patience > 0 && this.#error === undefined;) {
      const queues = this.#machine.queuesOf(pair);
      const half = queues[flow.plan.id % Math.max(queues.length, 1)];
      let sent = false;
      for (let burst = this.#plan.burst; half !== undefined && burst > 0 && left > 0; burst--) {
        const result = this.#transmit(flow, half.port, pair.hn!);
        if (result === TransmitResult.full) this.totals.full++;
        if (result === TransmitResult.refused) left--;
        if (result !== TransmitResult.copied && result !== TransmitResult.lent) break;
        sent = true;
        left--;
      }
      half?.port.flush();
      if (!sent) patience--;
      if (!sent || this.#prng.chance(1, 2)) await this.sleep(this.#prng.below(sent ? 3 : 12));
    }
  }

  /** Sends one frame of a flow, with the offloads that its interface has. @param least - Payload bytes; any unless told. */
  #transmit(flow: Flow, port: NetvscQueue, hn: NetvscInterface, least?: number): TransmitResult {
    const { plan } = flow;
    const user = this.#users.find((one) => one.port === port)!;
    user.sections ??= Number(port.inspect()["freeSections"]);
    const { mtu } = hn.parameters;
    const header = headerBytesOf(plan.kind);
    const room = mtu + ETHERNET_BYTES - header;
    const offload = new TransmitOffload();
    offload.vlanTag = plan.vlanTag;
    let payloadBytes = least ?? this.#payloadBytes(room);
    const most = isIpv6(plan.kind)
      ? hn.parameters.offloads.largeSend6BytesMax
      : hn.parameters.offloads.largeSend4BytesMax;
    const large = isTcp(plan.kind) && this.#plan.superFrames && most > 0 && this.#prng.chance(1, 2);
    if (large) {
      offload.segmentBytes = 400 + this.#prng.below(room - 400 + 1);
      payloadBytes = Math.min(this.#prng.below(6 * room) + 400, most - header);
    }
    const partial = large || this.#wantsChecksum(plan, hn);
    if (partial) {
      offload.checksum = checksumBits(plan);
      offload.headerOffset = transportAt(plan.kind);
    }
    const bytes = buildFrame(plan, flow.position, payloadBytes, partial ? "partial" : "whole");
    const list = this.#place(bytes);
    if (list === undefined) return TransmitResult.full;
    const tag = this.#nextTag++;
    const segmentBytes = large ? offload.segmentBytes : payloadBytes;
    flow.send(payloadBytes, segmentBytes);
    this.#lent.set(tag, list.address);
    const result = port.transmit(list.ranges, offload, tag);
    if (result === TransmitResult.lent) {
      this.#count(large);
      return result;
    }
    this.#lent.delete(tag);
    this.#scribble(list.address);
    this.#machine.programs.free(list.address);
    if (result === TransmitResult.copied) this.#count(large);
    else flow.takeBack(payloadBytes, segmentBytes);
    if (result === TransmitResult.refused) this.totals.refused++;
    return result;
  }

  #payloadBytes(room: number): number {
    return LABEL_BYTES + this.#prng.below(this.#prng.chance(1, 3) ? 100 : room - LABEL_BYTES);
  }

  #count(large: boolean): void {
    this.totals.sent++;
    if (large) this.totals.superFrames++;
  }

  #wantsChecksum({ kind }: FlowPlan, hn: NetvscInterface): boolean {
    if (kind === "raw") return false;
    const offload = {
      udp4: Offload.udp4,
      udp6: Offload.udp6,
      tcp4: Offload.tcp4,
      tcp6: Offload.tcp6,
    };
    const { transmitChecksums } = hn.parameters.offloads;
    return (transmitChecksums & offload[kind]) !== 0 && this.#prng.chance(3, 4);
  }

  /** Puts a frame into the programs' memory: in one run, or several, at any byte. */
  #place(bytes: Uint8Array): { readonly address: number; readonly ranges: GpaRanges } | undefined {
    const { programs, memory } = this.#machine;
    const pieces = 1 + this.#prng.below(4);
    const gap = this.#prng.below(200);
    const pages = Math.ceil((bytes.length + pieces * gap + PAGE_SIZE) / PAGE_SIZE);
    const address = programs.allocate(pages);
    if (address === undefined) return undefined;
    const ranges = new GpaRanges(memory);
    let at = address + this.#prng.below(PAGE_SIZE / 2);
    for (let done = 0; done < bytes.length; at += gap) {
      const rest = bytes.length - done;
      const length = ranges.runs + 1 >= pieces ? rest : 1 + this.#prng.below(rest);
      memory.bytes.set(bytes.subarray(done, done + length), at);
      ranges.add(at, length);
      done += length;
      at += length;
    }
    return { address, ranges };
  }

  /** Gives held frames back from time to time, as long as anybody sends. */
  async #releaseHeld(): Promise<void> {
    while (this.#running > 0) {
      await this.sleep(1 + this.#prng.below(10));
      for (const user of this.#users) user.releaseSome(false);
    }
    this.releaseAll();
  }

  /** Does to an interface its share of what is planned. */
  async #disturb(pair: AdapterPair, index: number): Promise<void> {
    const { length } = this.#machine.adapters;
    const own = this.#plan.disturbances.filter((_, at) => at % length === index);
    for (const disturbance of own) {
      await this.sleep(1 + this.#prng.below(40));
      if (pair.hn === undefined) continue;
      try {
        await this.#act(disturbance, pair, pair.hn);
      } catch (error) {
        if (!(error instanceof NetvscError || error instanceof VmbusError)) throw error;
        this.failures.push({ what: disturbance, code: String(error.code) });
      }
    }
  }

  async #act(disturbance: Disturbance, pair: AdapterPair, hn: NetvscInterface): Promise<void> {
    switch (disturbance) {
      case "mtu":
        await hn.setMtu(this.#prng.pick(this.#plan.mtus));
        return;
      case "reattach":
        await this.#machine.reattach(pair);
        return;
      case "rescind":
        this.#machine.partition.rescind(pair.instanceId, this.#prng.below(160) / 8);
        await this.sleep(this.#prng.below(40));
        return;
      case "link":
        pair.host.port.setLink(false);
        await this.sleep(this.#prng.below(30));
        pair.host.port.setLink(true);
        return;
      case "filter":
        await hn.setFilter(PacketFilter.none);
        await this.sleep(this.#prng.below(10));
        await hn.setFilter(USUAL_FILTER);
        return;
      case "query":
        await hn.query(Oid.genLinkSpeed);
    }
  }
}

function checksumBits({ kind }: FlowPlan): number {
  const family = isIpv6(kind) ? TransmitChecksum.ipv6 : TransmitChecksum.ipv4;
  return family | (isTcp(kind) ? TransmitChecksum.tcp : TransmitChecksum.udp);
}
