import { SendResult, type Channel, type ChannelClosedReason } from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import type {
  ChannelOpening,
  HostChannelHandler,
  HostService,
  ServiceContext,
} from "../src/index.js";

/** The host's end of one echo channel. */
export class EchoChannel implements HostChannelHandler {
  readonly opening: ChannelOpening;
  readonly context: ServiceContext;
  channel: Channel | undefined;
  reason: ChannelClosedReason | undefined;
  packets = 0;
  readonly #service: EchoService;

  constructor(service: EchoService, opening: ChannelOpening, context: ServiceContext) {
    this.#service = service;
    this.opening = opening;
    this.context = context;
  }

  opened(channel: Channel): void {
    this.channel = channel;
  }

  /** Completes each packet with its own payload. */
  packet(channel: Channel): void {
    this.packets++;
    const { incoming, outgoing } = channel;
    const payload = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    const bytes = Packet.descriptorBytes + payload.byteLength;
    const { idLow, idHigh } = incoming;
    const result = channel.begin(
      PacketType.completion,
      0,
      Packet.descriptorBytes,
      bytes,
      idLow,
      idHigh,
    );
    if (result !== SendResult.Ready) throw new Error("the test sends more than the ring holds");
    outgoing.putBytes(payload, 0, payload.byteLength);
    outgoing.end();
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(): void {
    throw new Error("nobody waits for space");
  }

  closed(_: Channel, reason: ChannelClosedReason): void {
    this.reason = reason;
  }

  release(done: () => void): void {
    if (this.#service.holdsReleases) this.#service.held.push(done);
    else done();
  }

  save(): { readonly data: number } | undefined {
    return this.#service.isBusy ? undefined : { data: this.packets };
  }

  restore(data: unknown): void {
    this.packets = data as number;
  }
}

/** Sends back what it gets. */
export class EchoService implements HostService {
  readonly channels: EchoChannel[] = [];
  /** Releases wait in `held`, as those of a device with requests in flight. */
  holdsReleases = false;
  readonly held: (() => void)[] = [];
  /** Its channels are in the middle of something, and cannot be saved. */
  isBusy = false;
  /** Refuses with this status, if it is there. */
  refusal: number | undefined;

  open(opening: ChannelOpening, context: ServiceContext): EchoChannel | number {
    if (this.refusal !== undefined) return this.refusal;
    const channel = new EchoChannel(this, opening, context);
    this.channels.push(channel);
    return channel;
  }

  /** Lets go of everything. */
  letGo(): void {
    for (const done of this.held.splice(0)) done();
  }
}
