import type { FlowPlan, FoundFrame } from "./network-frames.js";

/** What the faults of a schedule excuse. */
export interface Excuses {
  /** Frames may arrive twice. */
  readonly duplicates: boolean;
  /** Frames may overtake each other. */
  readonly reordering: boolean;
  /** Bytes of frames, or what the host says of their checksums, may be wrong. */
  readonly spoils: boolean;
}

/** One flow at one of its receivers: each unit that was sent arrives once, in order, or is missing in the end. */
class Reception {
  /** Lengths of what was sent and has not arrived, by position. */
  readonly missing = new Map<number, number>();
  readonly #arrived = new Set<number>();
  #next = 0;

  /** Checks what has arrived, which may be several units of a stream. @returns How many. */
  arrive(frame: FoundFrame, stream: boolean, excuses: Excuses): number {
    const end = stream ? frame.position + frame.payloadBytes : frame.position + 1;
    let units = 0;
    for (let at = frame.position; at < end; units++) {
      const length = this.missing.get(at);
      if (length === undefined) {
        if (!this.#arrived.has(at)) throw new Error(`${at} was never sent`);
        if (!excuses.duplicates) throw new Error(`${at} has arrived twice`);
        return 0;
      }
      // The second copy of a super-frame brings the segments that were lost of the first one, behind those that were not.
      const isSecondCopy = stream && excuses.duplicates;
      if (at < this.#next && !excuses.reordering && !isSecondCopy)
        throw new Error(`${at} arrived behind what was sent after it`);
      if (!stream && length !== frame.payloadBytes)
        throw new Error(`${at} has ${frame.payloadBytes} bytes of ${length}`);
      this.missing.delete(at);
      this.#arrived.add(at);
      at += stream ? length : 1;
      this.#next = Math.max(this.#next, at);
    }
    return units;
  }
}

/** A flow: what was sent of it, and what arrived where. */
export class Flow {
  readonly plan: FlowPlan;
  readonly stream: boolean;
  /** Position of the next frame. */
  position = 0;
  readonly #receptions: ReadonlyMap<number, Reception>;

  /** @param receivers - Adapters that get its frames. */
  constructor(plan: FlowPlan, receivers: readonly number[]) {
    this.plan = plan;
    this.stream = plan.kind === "tcp4" || plan.kind === "tcp6";
    this.#receptions = new Map(receivers.map((index) => [index, new Reception()]));
  }

  /** A frame is about to be sent at `position`: the pieces in which it may arrive. */
  send(payloadBytes: number, segmentBytes: number): void {
    for (const { missing } of this.#receptions.values()) {
      if (!this.stream) missing.set(this.position, payloadBytes);
      else
        for (let done = 0; done < payloadBytes; done += segmentBytes)
          missing.set(this.position + done, Math.min(segmentBytes, payloadBytes - done));
    }
    this.position += this.stream ? payloadBytes : 1;
  }

  /** The frame that was sent last was not taken. */
  takeBack(payloadBytes: number, segmentBytes: number): void {
    this.position -= this.stream ? payloadBytes : 1;
    for (const { missing } of this.#receptions.values())
      if (!this.stream) missing.delete(this.position);
      else
        for (let done = 0; done < payloadBytes; done += segmentBytes)
          missing.delete(this.position + done);
  }

  /** A frame of the flow has arrived at an adapter. @returns The units in it that had been missing. */
  arrive(at: number, frame: FoundFrame, excuses: Excuses): number {
    const reception = this.#receptions.get(at);
    if (reception === undefined) throw new Error(`a frame of flow ${frame.flow} at adapter ${at}`);
    try {
      return reception.arrive(frame, this.stream, excuses);
    } catch (error) {
      throw new Error(`flow ${frame.flow} (${this.plan.kind}): ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  /** Units that have not arrived, at all receivers together. */
  get missing(): number {
    let sum = 0;
    for (const { missing } of this.#receptions.values()) sum += missing.size;
    return sum;
  }
}
