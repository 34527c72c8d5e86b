import {
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  SendResult,
  type RingArea,
  type RingControlFactory,
} from "@hyperv-is/vmbus-core";
import { Packet } from "@hyperv-is/vmbus-core/protocol";
import type { ChannelTrace } from "./channel-trace.js";

/** The reading end of a ring whose packets are recorded as they are looked at. */
export class TracedIncomingRing extends IncomingRing {
  readonly #trace: ChannelTrace;

  constructor(area: RingArea, makeControl: RingControlFactory, trace: ChannelTrace) {
    super(area, makeControl);
    this.#trace = trace;
  }

  override next(): ReceiveResult {
    const result = super.next();
    if (result === ReceiveResult.Packet) this.#trace.received(this);
    return result;
  }
}

/** The writing end of a ring whose packets are recorded as they are ended. */
export class TracedOutgoingRing extends OutgoingRing {
  readonly #area: RingArea;
  readonly #trace: ChannelTrace;
  /** Where the next packet begins. */
  #start: number;
  #type = 0;
  #packetBytes = 0;
  #idLow = 0;
  #idHigh = 0;

  constructor(area: RingArea, makeControl: RingControlFactory, trace: ChannelTrace) {
    super(area, makeControl);
    this.#area = area;
    this.#trace = trace;
    this.#start = this.inspect().writeIndex;
  }

  override begin(
    type: number,
    flags: number,
    headerBytes: number,
    packetBytes: number,
    idLow: number,
    idHigh: number,
  ): SendResult {
    const result = super.begin(type, flags, headerBytes, packetBytes, idLow, idHigh);
    if (result === SendResult.Ready) {
      this.#type = type;
      this.#packetBytes = (packetBytes + 7) & ~7;
      this.#idLow = idLow;
      this.#idHigh = idHigh;
    }
    return result;
  }

  override end(): void {
    super.end();
    const start = this.#start;
    const next = start + this.#packetBytes + Packet.trailerBytes;
    this.#start = next >= this.sizeBytes ? next - this.sizeBytes : next;
    this.#trace.sent(this.#area, start, this.#packetBytes, this.#type, this.#idLow, this.#idHigh);
  }
}
