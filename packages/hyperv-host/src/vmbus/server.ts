import type { EventFlagsFactory, GuestMemory, Timer, Timers } from "@hyperv-is/vmbus-core";
import { SynicMessageType, formatVersion, type Guid } from "@hyperv-is/vmbus-core/protocol";
import { FaultPlan, isDevice } from "../faults.js";
import type { Bells } from "../hypervisor/bells.js";
import { HostSignals } from "../hypervisor/host-signals.js";
import type { HypervisorState } from "../hypervisor/hypervisor-state.js";
import { MessageSlots, type HostMessageSlotFactory } from "../hypervisor/message-slots.js";
import { NO_PORT, portOf } from "../hypervisor/signal-ports.js";
import { SyntheticInterrupts } from "../hypervisor/synic.js";
import type { TraceRecorder } from "../trace/trace-recorder.js";
import { Violations } from "../violations.js";
import type { SavedPartition } from "../saved-partition.js";
import type { SavedWorkerChannel } from "../worker-channel.js";
import { Bus, type BusState } from "./bus.js";
import type { ChannelSummary } from "./channel.js";
import type { BusOptions } from "./connection.js";
import type { ServerEffect } from "./effects.js";
import type { DeviceOffer } from "./offers.js";
import type { RestoredChannel } from "./saved-channel.js";
import type { HostWorkerLink, WorkerReply } from "./worker-link.js";

/** Messages taken in one go, so that a guest that posts for ever cannot hold the thread. */
const MESSAGE_BUDGET = 64;

/**
 * Answers that may wait for a guest that does not read them. Beyond it the host reads no more messages
 * either, the queue fills, and the guest's posts fail.
 */
const BACKLOG_LIMIT = 4096;

/** What the server needs of its machine. */
export interface VmbusServerOptions {
  readonly state: HypervisorState;
  readonly memory: GuestMemory;
  readonly bells: Bells;
  readonly timers: Timers;
  /** The road to each host worker, by index. */
  readonly workers: readonly HostWorkerLink[];
  readonly bus?: BusOptions;
  readonly faults?: FaultPlan;
  /** Records the messages of both sides. */
  readonly trace?: TraceRecorder;
  /** Accesses to shared memory; the simulation has its own. */
  readonly makeEventFlags?: EventFlagsFactory;
  readonly makeMessageSlot?: HostMessageSlotFactory;
}

/** The server as an administrator sees it. */
export interface VmbusServerStats {
  readonly state: BusState;
  /** Such as "5.3"; undefined while no guest is connected. */
  readonly version: string | undefined;
  readonly messagesIn: number;
  readonly messagesOut: number;
  /** Messages that wait for the guest to empty a slot. */
  readonly backlog: number;
  readonly channels: readonly ChannelSummary[];
  /** By rule. */
  readonly violations: Readonly<Record<string, number>>;
}

/**
 * The host's control thread: takes what guests post, lets the bus decide, and does what it says.
 *
 * The thread's loop: `reply` with each message of the workers' links, then `run` until it returns false;
 * sleep on the control doorbell. Nothing that a guest or a worker says makes it throw.
 */
export class VmbusServer {
  readonly #violations: Violations;
  readonly #state: HypervisorState;
  readonly #timers: Timers;
  readonly #trace: TraceRecorder | undefined;
  readonly #workers: readonly HostWorkerLink[];
  readonly #bus: Bus;
  readonly #slots: MessageSlots;
  readonly #signals: HostSignals;
  readonly #offers = new Map<Guid, DeviceOffer>();
  readonly #faults: FaultPlan;
  #timedFaults: Timer[] = [];
  #resetDone: (() => void)[] = [];
  /** Devices that will come back by themselves. */
  #reoffers = 0;
  #messagesIn = 0;
  #messagesOut = 0;

  constructor(options: VmbusServerOptions) {
    const { state, memory, bells, timers, trace } = options;
    const faults = options.faults ?? FaultPlan.none(timers);
    this.#faults = faults;
    this.#state = state;
    this.#timers = timers;
    this.#trace = trace;
    this.#workers = options.workers;
    this.#violations = new Violations(timers);
    this.#signals = new HostSignals(state, memory, bells);
    this.#slots = new MessageSlots({
      state,
      memory,
      interrupts: new SyntheticInterrupts(state, memory, bells, options.makeEventFlags),
      dropped: (vp, sint) => {
        const detail = `processor ${vp} takes no messages at SINT ${sint}: one was lost`;
        this.#violations.record("message-to-masked-sint", detail);
      },
      ...(trace && {
        delivered: (vp, sint, bytes, isLost) => trace.delivered(vp, sint, bytes, isLost, state),
      }),
      ...(options.makeMessageSlot && { makeSlot: options.makeMessageSlot }),
    });
    this.#bus = new Bus({
      memory,
      vpCount: state.vpCount,
      ...(options.bus && { options: options.bus }),
      isVersionRefused: (version) => faults.at("bus.version", { version }) !== undefined,
    });
    this.#carryOut();
    this.followFaults();
  }

  /** What the guest did wrong, up to this moment. */
  get violations(): Violations {
    this.#collectFaults();
    return this.#violations;
  }

  /** Offers a device, at once or when a guest asks for offers. Throws if its instance is offered already. */
  offer(offer: DeviceOffer): void {
    if (offer.worker >= this.#workers.length) throw new RangeError("no such host worker");
    this.#bus.offer(offer);
    this.#offers.set(offer.instanceId, offer);
    this.#carryOut();
  }

  /**
   * Rescinds a device and its sub-channels.
   *
   * @param reofferAfterMs - to offer it again after so long.
   * @returns False if there is none.
   */
  rescind(instanceId: Guid, reofferAfterMs?: number): boolean {
    const offer = this.#offers.get(instanceId);
    this.#offers.delete(instanceId);
    if (offer === undefined || !this.#bus.rescind(instanceId)) return false;
    this.#carryOut();
    if (reofferAfterMs !== undefined) {
      this.#reoffers++;
      this.#timers.after(reofferAfterMs, () => {
        this.#reoffers--;
        // Somebody may have offered it in the meantime.
        if (!this.#offers.has(instanceId)) this.offer(offer);
      });
    }
    return true;
  }

  /** The devices that are offered. */
  get offers(): readonly DeviceOffer[] {
    return Array.from(this.#offers.values());
  }

  /** Takes a message of a host worker. */
  reply(reply: WorkerReply): void {
    if (reply.kind === "rescind-device") this.rescind(reply.instanceId, reply.reofferAfterMs);
    else if (reply.kind === "rescind-sub-channel")
      this.#rescindSubChannel(reply.key, reply.reofferAfterMs);
    else {
      this.#bus.reply(reply);
      this.#carryOut();
    }
  }

  /** To be called when the fault plan was replaced: what the old one had in store for later does not happen. */
  followFaults(): void {
    for (const timer of this.#timedFaults) timer.cancel();
    this.#timedFaults = this.#faults.timedRescinds.map((fault) =>
      this.#timers.after(fault.afterMs ?? 0, () => {
        this.#faults.count(fault);
        this.#rescindMatching(fault.device ?? "", fault.reofferAfterMs);
      }),
    );
  }

  /** Handles what guests posted and what slots they emptied; true if it should be called again. */
  run(): boolean {
    this.#slots.run();
    this.#collectFaults();
    for (let budget = MESSAGE_BUDGET; budget > 0; budget--) {
      if (this.#slots.backlog > BACKLOG_LIMIT) return false;
      const message = this.#state.messages.take();
      if (message === undefined) return false;
      this.#messagesIn++;
      this.#trace?.posted(message, this.#state);
      if (message.type === SynicMessageType.channel) this.#bus.message(message);
      else this.#violations.record("message-type", `type 0x${message.type.toString(16)}`);
      this.#carryOut();
    }
    return this.#state.messages.waiting;
  }

  /**
   * Looks for monitored notifications, where writes to the monitor page cannot be trapped: to be called as
   * often as a guest may expect them to be noticed, some 10,000 times a second on a real host, as long as
   * `isMonitoring`. Any thread of the host may do so with a `HostSignals` of its own.
   *
   * @returns True if there were any.
   */
  pollMonitors(): boolean {
    return this.#signals.pollMonitors();
  }

  /** True if a guest has given monitor pages. */
  get isMonitoring(): boolean {
    return this.#state.monitorPage !== undefined;
  }

  /**
   * Takes everything back from the guest, whose processors have stopped, and puts the hypervisor's
   * registers back; the devices stay offered.
   *
   * @param done - called when no worker touches the guest's memory any more.
   */
  reset(done: () => void = () => undefined): void {
    this.#resetDone.push(done);
    this.#bus.reset();
    this.#carryOut();
  }

  /**
   * The server when nothing is in progress; undefined while something is, or a device is to come back.
   *
   * @param services - what the workers say of the open channels, by key.
   */
  save(services: ReadonlyMap<number, SavedWorkerChannel>): SavedPartition | undefined {
    const isAtRest =
      this.#slots.backlog === 0 &&
      this.#resetDone.length === 0 &&
      this.#reoffers === 0 &&
      !this.#state.messages.waiting;
    const bus = isAtRest ? this.#bus.save(services) : undefined;
    if (bus === undefined) return undefined;
    return {
      words: this.#state.words.slice(),
      bus,
      messagesIn: this.#messagesIn,
      messagesOut: this.#messagesOut,
      violations: this.violations.save(),
    };
  }

  /**
   * Goes on from what was saved, before any guest was there.
   *
   * @returns The channels, each with its new key, for the workers; `offerNew` follows when they have them.
   */
  restore({ words, bus, messagesIn, messagesOut, violations }: SavedPartition): RestoredChannel[] {
    this.#state.restore(words);
    const restored = this.#bus.restore(bus);
    this.#messagesIn = messagesIn;
    this.#messagesOut = messagesOut;
    this.#violations.restore(violations);
    return restored;
  }

  /** Tells a restored guest of the devices that it does not know. */
  offerNew(): void {
    this.#bus.offerNew();
    this.#carryOut();
  }

  stats(): VmbusServerStats {
    const { connection } = this.#bus;
    return {
      state: this.#bus.state,
      version: connection && formatVersion(connection.version),
      messagesIn: this.#messagesIn,
      messagesOut: this.#messagesOut,
      backlog: this.#slots.backlog,
      channels: this.#bus.channels,
      violations: this.violations.counts(),
    };
  }

  #rescindSubChannel(key: number, reofferAfterMs: number | undefined): void {
    const name = this.#bus.rescindSubChannel(key);
    this.#carryOut();
    if (name === undefined || reofferAfterMs === undefined) return;
    this.#reoffers++;
    this.#timers.after(reofferAfterMs, () => {
      this.#reoffers--;
      this.#bus.offerSubChannel(name);
      this.#carryOut();
    });
  }

  #rescindMatching(device: string, reofferAfterMs: number | undefined): void {
    for (const offer of this.offers)
      if (isDevice(device, offer)) this.rescind(offer.instanceId, reofferAfterMs);
  }

  /** Takes over what virtual processors have counted on their own threads. */
  #collectFaults(): void {
    this.#state.faults.collect((rule, count, value) =>
      this.#violations.record(rule, `value 0x${value.toString(16)}`, undefined, count),
    );
  }

  #carryOut(): void {
    for (const effect of this.#bus.take()) this.#act(effect);
  }

  #act(effect: ServerEffect): void {
    const { ports } = this.#state;
    switch (effect.kind) {
      case "message":
        this.#messagesOut++;
        this.#slots.post(effect.vp, effect.sint, effect.bytes);
        return;
      case "request":
        this.#workers[effect.worker]!.send(effect.request);
        return;
      case "violation":
        this.#violations.record(effect.rule, effect.detail, effect.relid);
        return;
      case "connect-port":
        ports.connect(effect.connectionId, portOf(effect.worker, effect.flag));
        return;
      case "disconnect-port":
        ports.disconnect(effect.connectionId);
        return;
      case "connect-monitor":
        ports.setMonitor(effect.monitorId, portOf(effect.worker, effect.flag));
        return;
      case "disconnect-monitor":
        ports.setMonitor(effect.monitorId, NO_PORT);
        return;
      case "signal-pages":
        this.#state.sendHalf = effect.sendHalf;
        this.#state.monitorPage = effect.monitorPage;
        return;
      case "message-connections":
        this.#state.setMessageConnections(effect.ids);
        return;
      case "reset-complete":
        this.#slots.clear();
        this.#state.reset();
        for (const done of this.#resetDone.splice(0)) done();
    }
  }
}
