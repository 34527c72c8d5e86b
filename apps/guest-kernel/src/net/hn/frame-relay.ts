import type { EthernetPort, EthernetUser, ReceivedFrame } from "@hyperv-is/hv-netvsc";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { copyReceived, isEthernetFrame, receivedBytes } from "./received-frame.js";

/** A received frame on its way to the stack: plain data. */
export interface RelayedFrame {
  readonly bytes: Uint8Array;
  /** `ChecksumVerdict` bits. */
  readonly verdict: number;
}

/** What a relay hands over at once. */
export interface RelayedBatch {
  readonly frames: readonly RelayedFrame[];
  /** Frames that were dropped since the last batch: the stack was slow, or they were none. */
  readonly dropped: number;
}

/** Frames that may be on their way to a stack that does not take them; more are dropped. */
const RELAYED_MAX = 512;

/**
 * Who gets the frames of a channel on another CPU than that of the guest's own stack: they are copied and handed over,
 * those of one look at the ring together. That stack is for all that is not fast; what is fast has a user on each CPU.
 */
export class FrameRelay implements EthernetUser {
  readonly #port: EthernetPort;
  readonly #memory: GuestMemory;
  readonly #deliver: (batch: RelayedBatch) => Promise<void>;
  #dropped = 0;
  #batch: RelayedFrame[] = [];
  #onTheWay = 0;

  /** @param deliver - Resolves when the stack has taken the frames. */
  constructor(
    port: EthernetPort,
    memory: GuestMemory,
    deliver: (batch: RelayedBatch) => Promise<void>,
  ) {
    this.#port = port;
    this.#memory = memory;
    this.#deliver = deliver;
  }

  received(frame: ReceivedFrame): void {
    const isTooMuch = this.#onTheWay + this.#batch.length >= RELAYED_MAX;
    if (isTooMuch || !isEthernetFrame(frame)) this.#dropped++;
    else {
      const bytes = new Uint8Array(receivedBytes(frame));
      copyReceived(this.#memory, frame, bytes);
      this.#batch.push({ bytes, verdict: frame.verdict });
    }
    this.#port.release(frame.ticket);
  }

  batchEnd(): void {
    const frames = this.#batch;
    if (frames.length === 0) return;
    const dropped = this.#dropped;
    this.#batch = [];
    this.#dropped = 0;
    this.#onTheWay += frames.length;
    // A stack that is gone takes nothing any more.
    const taken = (): void => void (this.#onTheWay -= frames.length);
    this.#deliver({ frames, dropped }).then(taken, taken);
  }

  transmitted(): void {
    // Nothing is sent here.
  }

  transmitReady(): void {
    // Nothing is sent here.
  }

  closed(): void {
    this.#batch = [];
  }
}
