import {
  ChannelDispatcher,
  EventFlags,
  type EventFlagsFactory,
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  RingArea,
  ringControl,
  type Channel,
  type ChannelClosedReason,
  type ChannelCounters,
  type RingControlFactory,
  type Signal,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { DeviceClass, NtStatus, type GpaRange, type Guid } from "@hyperv-is/vmbus-core/protocol";
import { absentService } from "./absent-service.js";
import { FaultPlan } from "./faults.js";
import { GuestSignal, InterruptPageSignal, noSignal } from "./guest-signal.js";
import type { HostService, ServiceMatch } from "./host-service.js";
import type { Bells } from "./hypervisor/bells.js";
import type { HypervisorState } from "./hypervisor/hypervisor-state.js";
import { SyntheticInterrupts } from "./hypervisor/synic.js";
import { keyboardService } from "./keyboard/keyboard-channel.js";
import { TracedIncomingRing, TracedOutgoingRing } from "./trace/traced-rings.js";
import type { TraceRecorder } from "./trace/trace-recorder.js";
import type { SavedGpadl } from "./saved-partition.js";
import {
  WorkerChannel,
  type SavedWorkerChannel,
  type WorkerChannelOwner,
} from "./worker-channel.js";
import type { ChannelOpening, WorkerReply, WorkerRequest } from "./vmbus/worker-link.js";

/** What a host worker needs of its thread. */
export interface HostWorkerOptions {
  /** Number of this worker among the host's. */
  readonly index: number;
  readonly state: HypervisorState;
  readonly memory: GuestMemory;
  readonly bells: Bells;
  readonly timers: Timers;
  /** Sends a plain message to the control thread. */
  readonly reply: (reply: WorkerReply) => void;
  readonly faults?: FaultPlan;
  /** See `ServiceContext`. */
  readonly dataWritten?: (address: number, lengthBytes: number) => void;
  /** Records the packets of channels; those it leaves out cost nothing. */
  readonly trace?: TraceRecorder;
  /** Packets that one channel may handle before the others get their turn. */
  readonly budget?: number;
  /** Access to shared words; the simulation has its own. */
  readonly makeRingControl?: RingControlFactory;
  readonly makeEventFlags?: EventFlagsFactory;
}

/** Services that every worker has without being told, by class. */
const standardServices: ReadonlyMap<Guid, HostService> = new Map([
  [DeviceClass.keyboard.classId, keyboardService],
]);

/** Counters of one open channel. */
export interface WorkerChannelStats extends Readonly<ChannelCounters> {
  readonly relid: number;
  readonly instanceId: Guid;
  readonly subChannelIndex: number;
}

/**
 * One thread of the host's data plane: opens channels as the server asks, hands their packets to the
 * services of their devices, and closes them again.
 *
 * The thread's loop: `receive` each message of its link, `interrupt`, then `run` until it returns false;
 * sleep on the worker's doorbell.
 */
export class HostWorker {
  readonly index: number;
  readonly #memory: GuestMemory;
  readonly #timers: Timers;
  readonly #bells: Bells;
  readonly #reply: (reply: WorkerReply) => void;
  readonly #trace: TraceRecorder | undefined;
  readonly #makeRingControl: RingControlFactory;
  readonly #makeEventFlags: EventFlagsFactory;
  readonly #interrupts: SyntheticInterrupts;
  readonly #dispatcher: ChannelDispatcher;
  readonly #flags: EventFlags;
  readonly #services: (ServiceMatch & { readonly service: HostService })[] = [];
  /** Channels that are revoked, and that the guest has not let go of. */
  readonly #revoked = new Map<number, WorkerChannel>();
  readonly #channels = new Map<number, WorkerChannel>();
  readonly #gpadls = new Map<number, Map<number, readonly GpaRange[]>>();
  readonly #owner: WorkerChannelOwner;
  /** Channels whose rings are left alone for a while. */
  readonly #stalled = new Set<Channel>();
  readonly #stalling: { readonly channel: WorkerChannel; readonly durationMs: number }[] = [];

  constructor(options: HostWorkerOptions) {
    const { state, memory, bells, timers } = options;
    this.index = options.index;
    this.#memory = memory;
    this.#timers = timers;
    this.#bells = bells;
    this.#reply = options.reply;
    this.#trace = options.trace;
    this.#makeRingControl = options.makeRingControl ?? ringControl;
    this.#makeEventFlags = options.makeEventFlags ?? ((...area) => EventFlags.at(...area));
    this.#interrupts = new SyntheticInterrupts(state, memory, bells, this.#makeEventFlags);
    this.#dispatcher = new ChannelDispatcher(options.budget);
    this.#flags = state.workerFlags(options.index);
    this.#owner = {
      memory,
      timers,
      faults: options.faults ?? FaultPlan.none(timers),
      dataWritten: options.dataWritten,
      tell: options.reply,
      gpadl: (key, gpadlId) => this.#gpadls.get(key)?.get(gpadlId),
      schedule: (channel) => {
        // A ring that is left alone is looked at when its time is over.
        if (this.#stalled.has(channel)) return;
        this.#dispatcher.schedule(channel);
        bells.worker(this.index);
      },
      stall: (channel, durationMs) => {
        if (this.#stalled.has(channel.channel)) return;
        this.#stalled.add(channel.channel);
        this.#stalling.push({ channel, durationMs });
      },
    };
  }

  /** Registers the service of a class, or of one device, which goes before that of its class. */
  serve(match: ServiceMatch, service: HostService): void {
    this.#services.push({ ...match, service });
  }

  /** Carries out a request of the server. */
  receive(request: WorkerRequest): void {
    switch (request.kind) {
      case "open":
        this.#open(request.opening);
        return;
      case "close":
        this.#close(request.key, "closed", () => this.#reply({ kind: "closed", key: request.key }));
        return;
      case "modify":
        this.#modify(request.key, request.targetVp);
        return;
      case "gpadl-create":
        this.#createGpadl(request.key, request.gpadlId, request.ranges);
        return;
      case "gpadl-teardown":
        this.#tearDownGpadl(request.key, request.gpadlId);
        return;
      case "revoke": {
        const channel = this.#channels.get(request.key);
        if (channel !== undefined) this.#revoked.set(request.key, channel);
        this.#close(request.key, "rescinded", () => {
          this.#gpadls.delete(request.key);
          this.#reply({ kind: "revoked", key: request.key });
        });
        return;
      }
      case "guest-released":
        this.#revoked.get(request.key)?.guestReleased();
        this.#revoked.delete(request.key);
    }
  }

  /** Takes the event flags that the guest set. */
  interrupt(): void {
    this.#dispatcher.interrupt(this.#flags);
  }

  /** Handles packets of the channels that have any, each within the budget; true if it should be called again. */
  run(): boolean {
    const more = this.#dispatcher.run();
    // Asked first: an empty list, cut from itself, would be garbage of every look.
    if (this.#stalling.length === 0) return more;
    this.#beginStalls();
    return true;
  }

  /** Counters of the open channels. */
  stats(): WorkerChannelStats[] {
    return Array.from(this.#channels.values(), ({ channel, opening }) => ({
      relid: opening.relid,
      instanceId: opening.instanceId,
      subChannelIndex: opening.subChannelIndex,
      ...channel.counters,
    }));
  }

  /**
   * The channels by their keys, when nothing is in progress; a channel that is in the middle of something is
   * not among them.
   */
  save(): Map<number, SavedWorkerChannel> {
    const saved = new Map<number, SavedWorkerChannel>();
    for (const [key, channel] of this.#channels) {
      const isStalled = this.#stalled.has(channel.channel);
      const state = isStalled ? undefined : channel.save();
      if (state !== undefined) saved.set(key, state);
    }
    return saved;
  }

  /**
   * Goes on with a channel that was saved, whose rings are in the guest's memory as they were.
   *
   * @returns False if its device refuses it.
   */
  restore(saved: SavedWorkerChannel, gpadls: readonly SavedGpadl[]): boolean {
    const { opening, service } = saved;
    this.restoreGpadls(opening.key, gpadls);
    const channel = this.#connect(opening);
    if (!(channel instanceof WorkerChannel)) return false;
    this.#channels.set(opening.key, channel);
    this.#dispatcher.bind(opening.relid, channel.channel);
    channel.start();
    channel.restore(service);
    return true;
  }

  /** The GPADLs that a channel has lent; also those of one that is closed. */
  restoreGpadls(key: number, gpadls: readonly SavedGpadl[]): void {
    if (gpadls.length > 0)
      this.#gpadls.set(key, new Map(gpadls.map(({ id, ranges }) => [id, ranges])));
  }

  #beginStalls(): void {
    for (const { channel, durationMs } of this.#stalling.splice(0)) {
      // Only now: a poll that ended by its budget has put the channel back on the list.
      this.#dispatcher.unbind(channel.opening.relid);
      this.#timers.after(durationMs, () => {
        this.#stalled.delete(channel.channel);
        if (this.#channels.get(channel.opening.key) !== channel || channel.isReleasing) return;
        this.#dispatcher.bind(channel.opening.relid, channel.channel);
        this.#bells.worker(this.index);
      });
    }
  }

  #open(opening: ChannelOpening): void {
    const { key, relid } = opening;
    const opened = this.#channels.has(key) ? undefined : this.#connect(opening);
    if (!(opened instanceof WorkerChannel)) {
      const status = opened ?? NtStatus.unsuccessful;
      this.#reply({ kind: "opened", key, status });
      return;
    }
    this.#channels.set(key, opened);
    this.#dispatcher.bind(relid, opened.channel);
    this.#reply({ kind: "opened", key, status: NtStatus.success });
    opened.start();
  }

  #connect(opening: ChannelOpening): WorkerChannel | NtStatus {
    const { ringPages, downstreamPageOffset } = opening;
    const trace = this.#trace?.channel(opening, this.#memory, (gpadlId) =>
      this.#gpadls.get(opening.key)?.get(gpadlId),
    );
    let rings: { readonly incoming: IncomingRing; readonly outgoing: OutgoingRing };
    try {
      // What is recorded must go through the methods that record it: no ring core.
      const { buffer, byteOffset, sizeBytes } = this.#memory;
      const memory =
        trace === undefined ? this.#memory : new GuestMemory(buffer, byteOffset, sizeBytes);
      const incoming = new RingArea(memory, ringPages.slice(0, downstreamPageOffset));
      const outgoing = new RingArea(memory, ringPages.slice(downstreamPageOffset));
      const makeControl = this.#makeRingControl;
      rings =
        trace === undefined
          ? {
              incoming: new IncomingRing(incoming, makeControl),
              outgoing: new OutgoingRing(outgoing, makeControl),
            }
          : {
              incoming: new TracedIncomingRing(incoming, makeControl, trace),
              outgoing: new TracedOutgoingRing(outgoing, makeControl, trace),
            };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#violation(opening.key, "ring-not-initialized", error.message);
      return NtStatus.unsuccessful;
    }
    // Until the host has drained the ring for the first time it is awake and needs no signal.
    rings.incoming.mask();
    const service = this.#serviceOf(opening);
    const channel = new WorkerChannel(this.#owner, opening);
    const handler = service.open(opening, channel);
    if (typeof handler === "number") return handler;
    channel.connect(rings.incoming, rings.outgoing, this.#signalOf(opening), handler, trace);
    trace?.opened();
    return channel;
  }

  #serviceOf({ classId, instanceId }: ChannelOpening): HostService {
    const matches = this.#services.filter((candidate) => candidate.classId === classId);
    const own = matches.find((candidate) => candidate.instanceId === instanceId);
    const ofClass = matches.find((candidate) => candidate.instanceId === undefined);
    return (own ?? ofClass)?.service ?? standardServices.get(classId) ?? absentService;
  }

  #signalOf({ interrupt }: ChannelOpening): Signal {
    if (interrupt === undefined) return noSignal;
    if (interrupt.receiveHalf === undefined) return new GuestSignal(this.#interrupts, interrupt);
    return new InterruptPageSignal(
      this.#interrupts,
      this.#memory,
      interrupt.receiveHalf,
      interrupt,
      this.#makeEventFlags,
    );
  }

  #close(key: number, reason: ChannelClosedReason, done: () => void): void {
    const channel = this.#channels.get(key);
    if (channel === undefined) {
      done();
      return;
    }
    this.#dispatcher.unbind(channel.opening.relid);
    channel.release(reason, () => {
      this.#channels.delete(key);
      done();
    });
  }

  #modify(key: number, targetVp: number): void {
    const channel = this.#channels.get(key);
    const signal = channel?.signal;
    const movable = signal instanceof GuestSignal;
    if (movable) signal.retarget(targetVp);
    if (movable) channel?.trace?.retarget(targetVp);
    const status = movable ? NtStatus.success : NtStatus.unsuccessful;
    this.#reply({ kind: "modified", key, status });
  }

  #createGpadl(key: number, gpadlId: number, ranges: readonly GpaRange[]): void {
    let gpadls = this.#gpadls.get(key);
    if (gpadls === undefined) {
      gpadls = new Map();
      this.#gpadls.set(key, gpadls);
    }
    gpadls.set(gpadlId, ranges);
    this.#reply({ kind: "gpadl-created", key, gpadlId, status: NtStatus.success });
  }

  #tearDownGpadl(key: number, gpadlId: number): void {
    const done = (): void => {
      this.#gpadls.get(key)?.delete(gpadlId);
      this.#reply({ kind: "gpadl-torndown", key, gpadlId });
    };
    const channel = this.#channels.get(key);
    if (channel === undefined) done();
    else channel.tearDownGpadl(gpadlId, done);
  }

  #violation(key: number, rule: string, detail: string): void {
    this.#reply({ kind: "violation", key, rule, detail });
  }
}
