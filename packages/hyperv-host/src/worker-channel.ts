import {
  Channel,
  type ChannelClosedReason,
  type GuestMemory,
  type IncomingRing,
  type OutgoingRing,
  type Signal,
  type Timers,
} from "@hyperv-is/vmbus-core";
import type { GpaRange } from "@hyperv-is/vmbus-core/protocol";
import type { FaultContext, FaultPlan } from "./faults.js";
import { GuestSignal, noSignal } from "./guest-signal.js";
import type { HostChannelHandler, ServiceContext } from "./host-service.js";
import type { ChannelTrace } from "./trace/channel-trace.js";
import type { ChannelOpening, WorkerReply } from "./vmbus/worker-link.js";

/** What a channel needs of its host worker. */
export interface WorkerChannelOwner {
  readonly memory: GuestMemory;
  readonly timers: Timers;
  readonly faults: FaultPlan;
  readonly dataWritten: ((address: number, lengthBytes: number) => void) | undefined;
  /** Sends a message to the control thread. */
  tell(reply: WorkerReply): void;
  /** The ranges of a GPADL of a channel; undefined if there is none. */
  gpadl(key: number, gpadlId: number): readonly GpaRange[] | undefined;
  /** Has a channel polled, and the thread wake up for it. */
  schedule(channel: Channel): void;
  /** Has the ring of a channel left alone for a while, from the end of the current poll on. */
  stall(channel: WorkerChannel, durationMs: number): void;
}

/** A channel as it goes on elsewhere. */
export interface SavedWorkerChannel {
  readonly opening: ChannelOpening;
  readonly service: unknown;
}

/** An open channel on its host worker: between the rings and the handler of the device's service. */
export class WorkerChannel implements ServiceContext {
  readonly opening: ChannelOpening;
  readonly memory: GuestMemory;
  readonly timers: Timers;
  readonly faults: FaultPlan;
  readonly dataWritten: ((address: number, lengthBytes: number) => void) | undefined;
  /** How the guest is signalled. */
  signal: Signal = noSignal;
  /** Where its packets are recorded. */
  trace: ChannelTrace | undefined;
  readonly #owner: WorkerChannelOwner;
  readonly #context: FaultContext;
  #channel: Channel | undefined;
  #handler: HostChannelHandler | undefined;
  #isReleasing = false;
  /** To be called once the service has let go of the guest's memory. */
  readonly #released: (() => void)[] = [];
  #packetsSeen = 0;

  constructor(owner: WorkerChannelOwner, opening: ChannelOpening) {
    this.#owner = owner;
    this.opening = opening;
    this.memory = owner.memory;
    this.timers = owner.timers;
    this.faults = owner.faults;
    this.dataWritten = owner.dataWritten;
    this.#context = { classId: opening.classId, instanceId: opening.instanceId };
  }

  /** The rings' host end; there from `connect` on. */
  get channel(): Channel {
    if (this.#channel === undefined) throw new Error("the channel is not connected yet");
    return this.#channel;
  }

  /** True once `release` was called. */
  get isReleasing(): boolean {
    return this.#isReleasing;
  }

  /** Makes the host's end of the rings. */
  connect(
    incoming: IncomingRing,
    outgoing: OutgoingRing,
    signal: Signal,
    handler: HostChannelHandler,
    trace?: ChannelTrace,
  ): void {
    this.#handler = handler;
    this.trace = trace;
    this.signal = signal;
    const isSubChannel = this.opening.subChannelIndex > 0;
    this.#channel = new Channel(incoming, outgoing, signal, {
      packet: (channel) => {
        handler.packet(channel);
        if (isSubChannel && this.faults.isArmed("sub-channel.packet")) this.#maybeRescind();
      },
      batchEnd: (channel) => {
        handler.batchEnd(channel);
        if (this.faults.isArmed("channel.poll")) this.#maybeStall(channel);
      },
      spaceArrived: (channel) => handler.spaceArrived(channel),
      closed: (channel, reason) => {
        if (reason === "corrupt") this.#reportCorruption(channel);
        this.trace?.closed(reason);
        handler.closed(channel, reason);
      },
    });
  }

  /** Tells the service that the channel is there. */
  start(): void {
    this.#handler?.opened(this.channel);
  }

  /** Closes the host's end; `done` follows once the service has let go of the guest's memory. */
  release(reason: ChannelClosedReason, done: () => void): void {
    this.#released.push(done);
    if (this.#isReleasing) return;
    this.#isReleasing = true;
    this.channel.close(reason);
    this.#handler?.release(() => {
      for (const next of this.#released.splice(0)) next();
    });
  }

  /** Tells the service that the guest has let go of the channel, which was rescinded. */
  guestReleased(): void {
    this.#handler?.guestReleased?.();
  }

  /** Calls `done` once the service does not use the GPADL any more; the rings are in use until `release` is through. */
  tearDownGpadl(gpadlId: number, done: () => void): void {
    if (this.#isReleasing || gpadlId === this.opening.ringGpadlId) this.#released.push(done);
    else if (this.#handler?.gpadlTeardown === undefined) done();
    else this.#handler.gpadlTeardown(gpadlId, done);
  }

  /** Undefined while the channel, or what its service does with it, is in the middle of something. */
  save(): SavedWorkerChannel | undefined {
    const { channel } = this;
    const isAtRest =
      !this.#isReleasing &&
      !channel.isClosed() &&
      channel.incoming.inspect().readAvailable === 0 &&
      !channel.outgoing.waiting;
    const service = isAtRest ? this.#handler?.save?.() : undefined;
    if (service === undefined) return undefined;
    const { interrupt } = this.opening;
    const vp = this.signal instanceof GuestSignal ? this.signal.vp : interrupt?.vp;
    return {
      opening: {
        ...this.opening,
        interrupt: interrupt && { ...interrupt, vp: vp ?? interrupt.vp },
      },
      service: service.data,
    };
  }

  /** Tells the service of a channel that was saved what it said then. */
  restore(service: unknown): void {
    this.#handler?.restore?.(service);
  }

  gpadl(gpadlId: number): readonly GpaRange[] | undefined {
    return this.#owner.gpadl(this.opening.key, gpadlId);
  }

  schedule(): void {
    if (!this.#isReleasing) this.#owner.schedule(this.channel);
  }

  offerSubChannels(count: number): void {
    const { key } = this.opening;
    const fault = this.faults.at("sub-channel.offer", this.#context);
    const offer = (wanted: number, repeated = false): void =>
      this.#owner.tell({ kind: "offer-sub-channels", key, count: wanted, repeated });
    if (fault?.kind === "late-sub-channels") this.timers.after(fault.delayMs, () => offer(count));
    else if (fault?.kind === "fewer-sub-channels") offer(Math.min(count, fault.offered));
    else offer(count, fault?.kind === "repeated-sub-channels");
  }

  rescind(reofferAfterMs?: number): void {
    this.#owner.tell({
      kind: "rescind-device",
      instanceId: this.opening.instanceId,
      ...(reofferAfterMs !== undefined && { reofferAfterMs }),
    });
  }

  violation(rule: string, detail: string): void {
    this.#owner.tell({ kind: "violation", key: this.opening.key, rule, detail });
  }

  #maybeRescind(): void {
    const fault = this.faults.at("sub-channel.packet", this.#context);
    if (fault === undefined) return;
    const { reofferAfterMs } = fault;
    this.#owner.tell({
      kind: "rescind-sub-channel",
      key: this.opening.key,
      ...(reofferAfterMs !== undefined && { reofferAfterMs }),
    });
  }

  /** Asks the fault plan once for each poll that found packets. */
  #maybeStall(channel: Channel): void {
    if (channel.counters.packetsIn === this.#packetsSeen) return;
    this.#packetsSeen = channel.counters.packetsIn;
    const fault = this.faults.at("channel.poll", this.#context);
    if (fault !== undefined) this.#owner.stall(this, fault.durationMs);
  }

  #reportCorruption(channel: Channel): void {
    const { corruption } = channel.incoming;
    const code = channel.error?.code;
    const rule =
      corruption !== undefined
        ? `ring-${corruption}`
        : code === undefined || code === "ERR_RING_CORRUPT"
          ? "ring-read-index"
          : code.toLowerCase().replace(/^err_/, "").replaceAll("_", "-");
    this.violation(rule, channel.error?.message ?? "the ring is corrupt");
  }
}
