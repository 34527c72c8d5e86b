import type {
  Channel,
  ChannelClosedReason,
  ChannelHandler,
  GpaRuns,
  GuestMemory,
  IncomingRing,
  QueueContext,
  Timer,
} from "@hyperv-is/vmbus-core";
import { PollResult, SendResult } from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { ControlQueue, FIRST_CONTROL_ID } from "./control-queue.js";
import type {
  EthernetPort,
  EthernetUser,
  TransmitOffload,
  TransmitResult,
} from "./ethernet-port.js";
import { newQueueCounters } from "./queue-counters.js";
import type {
  NetvscQueueDescription,
  QueueTuning,
  ReceiveSide,
  TransmitSide,
} from "./queue-description.js";
import { ReceiveQueue } from "./receive-queue.js";
import { TransmitQueue } from "./transmit-queue.js";

/** What the control half hears on the primary channel. */
export interface ControlEvents {
  /** An RNDIS message that is no frame: a copy of the range that it came in. */
  message(range: Uint8Array): void;
  /** An NVSP message that the host sent unasked: a copy. */
  notice(message: Uint8Array): void;
}

/** The most that a host sends in band. */
const NOTICE_BYTES_MAX = 112;
/** Packets per look when the queue has itself polled. */
const POLL_BUDGET = 256;

/** One channel of an interface on the CPU that it is bound to. */
export class NetvscQueue implements ChannelHandler, EthernetPort {
  readonly description: NetvscQueueDescription;
  readonly memory: GuestMemory;
  readonly counters = newQueueCounters();
  /** Set by the control half on the primary channel; on others such messages have no place, and are counted. */
  control: ControlEvents | undefined;
  /** What the control half sends; on the primary channel only. */
  readonly controlQueue: ControlQueue | undefined;
  readonly #transmitter: TransmitQueue;
  readonly #context: QueueContext;
  readonly #channel: Channel;
  readonly #receiver: ReceiveQueue;
  #closedReason: ChannelClosedReason | undefined;
  #stopped = false;
  /** Nobody uses the port any more; the channel is there for the control half only. */
  #isUseOver = false;
  #pollTimer: Timer | undefined;
  readonly #onClosed: (reason: ChannelClosedReason) => void;

  /** Binds the channel to the CPU of `context`. Throws `ERR_NETVSC_MEMORY`. */
  constructor(
    context: QueueContext,
    description: NetvscQueueDescription,
    onClosed: (reason: ChannelClosedReason) => void,
  ) {
    const { memory, allocator } = context;
    const { channel, tuning, agreed } = description;
    this.description = description;
    this.memory = memory;
    this.#context = context;
    this.#onClosed = onClosed;
    this.#transmitter = new TransmitQueue(memory, allocator, tuning, this.counters, {
      transmitted: (tag, released) => this.user?.transmitted(tag, released),
    });
    this.#receiver = new ReceiveQueue(memory, this.counters, tuning.trust, (range) => {
      if (this.control === undefined) this.counters.malformed++;
      else this.control.message(range);
    });
    if (agreed !== undefined) {
      this.configureReceive(agreed.receive);
      this.configureTransmit(agreed.transmit);
    }
    this.#channel = context.bindChannel(channel, this);
    if (agreed === undefined)
      this.controlQueue = new ControlQueue(memory, allocator, this.#channel);
    this.#transmitter.bind(this.#channel);
    this.#receiver.bind(this.#channel);
  }

  get user(): EthernetUser | undefined {
    return this.#receiver.user;
  }

  set user(user: EthernetUser | undefined) {
    this.#receiver.user = user;
  }

  get closedReason(): ChannelClosedReason | undefined {
    return this.#closedReason;
  }

  /** The receive buffer is about to be the host's. */
  configureReceive(side: ReceiveSide): void {
    this.#receiver.configure(side);
  }

  /** Frames may be sent from now on. Throws `ERR_NETVSC_MEMORY`. */
  configureTransmit(side: TransmitSide): void {
    this.#transmitter.configure(side);
  }

  /** What `RunTuning` has of `tuning` holds for frames from now on. */
  tune(tuning: QueueTuning): void {
    this.#transmitter.tune(tuning);
    this.#receiver.tune(tuning.trust);
  }

  transmit(frame: GpaRuns, offload: TransmitOffload, tag: number): TransmitResult {
    return this.#transmitter.transmit(frame, offload, tag);
  }

  flush(): void {
    this.#transmitter.closeSection();
    this.#channel.flush();
  }

  release(ticket: number): void {
    // Not polled from here: whoever releases a frame is not prepared to be given more.
    if (this.#receiver.release(ticket)) this.#pollSoon();
  }

  /** Takes no more frames; resolves when the host has nothing of what was sent any more. */
  drain(): Promise<void> {
    const drained = this.#transmitter.drain();
    this.flush();
    return drained;
  }

  /**
   * Tells the user that the port is closed, while the control half goes on: frames that were not released lie in memory
   * that is about to be taken back. Sends that have not ended are abandoned. Idempotent.
   */
  endUse(): void {
    const { user } = this;
    this.#isUseOver = true;
    this.#transmitter.close();
    this.user = undefined;
    user?.closed(this.#closedReason ?? "closed");
  }

  /** True when the host has read everything that was put into the ring. */
  get isRead(): boolean {
    return this.#channel.outgoing.isDrained();
  }

  /** Ends the queue, and takes the channel off this CPU. What is lent comes back first. Idempotent. */
  stop(reason: ChannelClosedReason = "closed"): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#closedReason ??= reason;
    this.#context.unbindChannel(this.description.channel, reason);
  }

  packet(channel: Channel): void {
    const ring = channel.incoming;
    switch (ring.type) {
      case PacketType.completion:
        if (ring.idLow < FIRST_CONTROL_ID) {
          // Of what was abandoned the host may still tell.
          if (!this.#isUseOver) this.#transmitter.completion(ring);
        } else if (this.controlQueue?.completion(ring) !== true) this.counters.unknownIds++;
        break;
      case PacketType.transferPages:
        this.#receiver.packet(ring);
        break;
      case PacketType.inBand:
        this.#notice(ring);
        break;
      default:
        this.counters.malformed++;
    }
  }

  batchEnd(): void {
    const { user } = this;
    if (user !== undefined) {
      if (this.#transmitter.takeReady()) user.transmitReady();
      user.batchEnd();
    }
    this.flush();
  }

  spaceArrived(): void {
    if (this.#receiver.sendCompletions() && this.controlQueue?.sendLine() !== false)
      this.#transmitter.sendLine();
  }

  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.#closedReason ??= reason;
    this.#pollTimer?.cancel();
    this.controlQueue?.close();
    this.endUse();
    this.#onClosed(this.#closedReason);
  }

  /** Sends of frames that wait or that the host has. */
  get outstanding(): number {
    return this.#transmitter.outstanding;
  }

  /** What there is to know about the queue, as plain JSON. */
  inspect(): Record<string, unknown> {
    const { channel } = this.description;
    return {
      relid: channel.relid,
      subChannelIndex: channel.subChannelIndex,
      cpu: channel.targetVp,
      outstanding: this.outstanding,
      freeDescriptors: this.#transmitter.freeDescriptors,
      freeSections: this.#transmitter.freeSections,
      receivePacketsHeld: this.#receiver.held,
      completionsWaiting: this.#receiver.waiting,
      closed: this.#closedReason ?? null,
      counters: { ...this.counters },
      channel: { ...this.#channel.counters },
      rings: { rx: this.#channel.incoming.inspect(), tx: this.#channel.outgoing.inspect() },
    };
  }

  #pollSoon(): void {
    this.#pollTimer ??= this.#context.timers.after(0, () => {
      this.#pollTimer = undefined;
      if (this.#channel.poll(POLL_BUDGET) === PollResult.More) this.#pollSoon();
    });
  }

  #notice(ring: IncomingRing): void {
    const length = Math.min(ring.payloadBytes, NOTICE_BYTES_MAX);
    const message = ring.copyOut(ring.headerBytes, length);
    if (ring.completionRequested) this.#acknowledge(ring);
    if (this.control === undefined) this.counters.malformed++;
    else this.control.notice(message);
  }

  /** A host that wants to know that its message was read is told so, without a payload. */
  #acknowledge({ idLow, idHigh }: IncomingRing): void {
    const header = Packet.descriptorBytes;
    const result = this.#channel.begin(PacketType.completion, 0, header, header, idLow, idHigh);
    if (result === SendResult.Ready) this.#channel.outgoing.end();
  }
}
