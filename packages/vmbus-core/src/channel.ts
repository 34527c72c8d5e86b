import { VmbusError } from "./errors.js";
import type { IncomingRing } from "./ring/incoming-ring.js";
import type { OutgoingRing } from "./ring/outgoing-ring.js";
import { ReceiveResult, SendResult } from "./ring/ring-results.js";

/** Rings the peer's bell: a hypercall, a monitor bit, an event flag. Called only under the ring's signal rules. */
export interface Signal {
  signal(): void;
}

/** The code that a channel's packets are for. Called on the CPU that the channel is bound to. */
export interface ChannelHandler {
  /** A packet is in `channel.incoming`; what is needed of it must be copied out before this returns. */
  packet(channel: Channel): void;
  /** The packets of one look are handled: publish the answers (`channel.flush`). */
  batchEnd(channel: Channel): void;
  /** Room that `channel.waitForSpace` asked for may have come. */
  spaceArrived(channel: Channel): void;
  /** The channel closed: by `close`, by a rescind, or because the peer broke the protocol. Called once. */
  closed(channel: Channel, reason: ChannelClosedReason): void;
}

/** Why a channel closed. */
export type ChannelClosedReason = "closed" | "rescinded" | "corrupt";

/** Outcome of `Channel.poll`. */
export const PollResult = {
  /** Nothing left; a signal will announce more, or whoever had it paused or linger has it polled. */
  Idle: 0,
  /** The budget ended first; poll again, no signal will come. */
  More: 1,
  /** The channel is closed. */
  Closed: 2,
} as const;
export type PollResult = (typeof PollResult)[keyof typeof PollResult];

/** Running totals of one end of a channel. */
export interface ChannelCounters {
  packetsIn: number;
  packetsOut: number;
  /** Signals this end sent because it put packets. */
  signalsSent: number;
  /** Signals this end sent because it freed space that the peer waited for. */
  spaceSignalsSent: number;
  /** Interrupts taken. */
  interrupts: number;
  /** Times the outgoing ring was full. */
  outgoingFull: number;
}

/** One end of an open channel, guest or host: two rings, and the rules by which the ends wake each other. */
export class Channel {
  readonly incoming: IncomingRing;
  readonly outgoing: OutgoingRing;
  readonly counters: ChannelCounters = {
    packetsIn: 0,
    packetsOut: 0,
    signalsSent: 0,
    spaceSignalsSent: 0,
    interrupts: 0,
    outgoingFull: 0,
  };
  /** Set when the peer broke the protocol. */
  error: VmbusError | undefined;
  /**
   * Wants signals, and sends them, once per batch. False, for comparison: a signal for every packet that the
   * peer puts into an empty ring, and every packet published by itself. May change at any time.
   */
  signalOptimization = true;
  /** It is on the list of its dispatcher, whose mark this is. */
  isScheduled = false;
  readonly #signal: Signal;
  readonly #handler: ChannelHandler;
  #closedReason: ChannelClosedReason | undefined;
  #wantedBytes = 0;
  #paused = false;
  #lingers = false;

  constructor(
    incoming: IncomingRing,
    outgoing: OutgoingRing,
    signal: Signal,
    handler: ChannelHandler,
  ) {
    this.incoming = incoming;
    this.outgoing = outgoing;
    this.#signal = signal;
    this.#handler = handler;
  }

  get closedReason(): ChannelClosedReason | undefined {
    return this.#closedReason;
  }

  isClosed(): boolean {
    return this.#closedReason !== undefined;
  }

  /**
   * Stops reading the ring after the current packet, because the handler can take no more. The peer keeps
   * what does not fit; this end wants no signals meanwhile.
   */
  pause(): void {
    this.#paused = true;
  }

  /** Reads again; the caller has the channel polled. */
  resume(): void {
    this.#paused = false;
  }

  /**
   * Wants no signals yet although the ring may be empty after the current look, because more is to be expected. Said in
   * `batchEnd` by a handler that has the channel polled again soon.
   */
  linger(): void {
    this.#lingers = true;
  }

  /** The interrupt: this end is awake now and wants no more signals until it has drained the ring. */
  interrupt(): void {
    this.counters.interrupts++;
    if (!this.isClosed() && this.signalOptimization) this.incoming.mask();
  }

  /**
   * Handles up to `budget` packets, then sleeps or asks to be polled again.
   * The order at the end is the whole point: drain, unmask, look once more.
   */
  poll(budget: number): PollResult {
    if (this.isClosed()) return PollResult.Closed;
    if (this.#wantedBytes !== 0 && this.outgoing.spaceArrived(this.#wantedBytes)) {
      this.#wantedBytes = 0;
      this.#handler.spaceArrived(this);
    }
    const incoming = this.incoming;
    let left = budget;
    for (;;) {
      let result: ReceiveResult = ReceiveResult.Empty;
      while (left > 0 && !this.#paused && (result = incoming.next()) === ReceiveResult.Packet) {
        left--;
        this.counters.packetsIn++;
        this.#handler.packet(this);
        if (this.isClosed()) return PollResult.Closed;
        incoming.release();
        // A writer that waits for room must not wait for the end of a long batch.
        if (incoming.releasedBytes > incoming.sizeBytes >>> 2) this.#commit();
      }
      if (result === ReceiveResult.Corrupt) {
        this.#commit();
        this.#handler.batchEnd(this);
        this.fail(
          "ERR_RING_CORRUPT",
          `the peer corrupted the ring: ${String(incoming.corruption)}`,
        );
        return PollResult.Closed;
      }
      this.#commit();
      this.#handler.batchEnd(this);
      const lingers = this.#lingers;
      this.#lingers = false;
      if (this.isClosed()) return PollResult.Closed;
      if (this.#paused) return PollResult.Idle;
      if (left === 0) return PollResult.More;
      if (lingers) return PollResult.Idle;
      if (incoming.unmask()) return PollResult.Idle;
      if (this.signalOptimization) incoming.mask();
    }
  }

  /**
   * Starts an outgoing packet; see `OutgoingRing.begin`. A full ring is counted; an impossible index
   * closes the channel.
   */
  begin(
    type: number,
    flags: number,
    headerBytes: number,
    packetBytes: number,
    idLow: number,
    idHigh: number,
  ): SendResult {
    if (!this.signalOptimization) this.flush();
    if (this.isClosed()) return SendResult.Corrupt;
    const result = this.outgoing.begin(type, flags, headerBytes, packetBytes, idLow, idHigh);
    if (result === SendResult.Ready) this.counters.packetsOut++;
    else if (result === SendResult.Full) this.counters.outgoingFull++;
    else this.fail("ERR_RING_CORRUPT", "the peer moved its read index past what was written");
    return result;
  }

  /** Publishes what was put, and signals if the rules ask for it. */
  flush(): void {
    if (this.isClosed() || !this.outgoing.publish()) return;
    this.counters.signalsSent++;
    this.#signal.signal();
  }

  /**
   * After a full ring: asks the peer to say when a packet of `packetBytes` fits. Several parts of a handler may ask: all of
   * them are to look again when it is called, which is when there is room for the first that asked.
   *
   * @returns True if it fits already; false if `spaceArrived` of the handler will be called.
   */
  waitForSpace(packetBytes: number): boolean {
    // Packets that were put but not published could never be read, and so never make room.
    this.flush();
    // Another part waits. To ask anew could withdraw what it asked for, and nobody would call it any more.
    if (this.#wantedBytes !== 0) return this.outgoing.hasSpace(packetBytes);
    if (this.outgoing.requestSpace(packetBytes)) return true;
    this.#wantedBytes = packetBytes;
    return false;
  }

  /** Closes this end: no packet is handled or sent any more. Idempotent. */
  close(reason: ChannelClosedReason = "closed"): void {
    if (this.isClosed()) return;
    this.#closedReason = reason;
    this.#handler.closed(this, reason);
  }

  /** Closes this end because the peer broke the protocol above the ring. */
  fail(code: string, detail: string): void {
    if (this.isClosed()) return;
    this.error = new VmbusError(code, detail);
    this.close("corrupt");
  }

  #commit(): void {
    if (!this.incoming.commit()) return;
    this.counters.spaceSignalsSent++;
    this.#signal.signal();
  }
}
