import {
  PollResult,
  SendResult,
  type Channel,
  type ChannelClosedReason,
  type ChannelDescription,
  type ChannelHandler,
  type QueueContext,
  type QueueHalf,
} from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  icSession,
  icSessionStart,
  type IcRequest,
  type IcSessionEffect,
  type IcSessionInput,
  type IcSessionState,
  type IcSpeech,
} from "./ic-session.js";
import type { IcStatus, IcVersions } from "./protocol/index.js";

/** What a component does with what the host asks: the part that is its own. Called on the channel's CPU. */
export interface IcService extends IcSpeech {
  /** Versions are agreed on, for the first time or again. */
  agreed?(versions: IcVersions): void;
  /** A request of the host: to be answered once, by `IcChannel.respond`, before this returns or later. */
  request(request: IcRequest, versions: IcVersions): void;
  /** The host no longer waits for this request's answer. */
  cancelled?(request: IcRequest): void;
  /** The channel closed; nothing is asked any more. */
  closed?(reason: ChannelClosedReason): void;
}

/** Running totals of a component's channel. */
export interface IcCounters {
  /** Times that versions were agreed on. */
  negotiations: number;
  /** Requests that the component got. */
  requests: number;
  /** Answers sent, those to negotiations and refusals included. */
  answers: number;
  /** Requests whose answer the host no longer waited for. */
  cancelled: number;
  /** Requests that were answered without the component: see `IcRefusal`. */
  refused: number;
  /** Packets that hold no request. */
  dropped: number;
}

/** What the queue half is made from: plain data. */
export interface IcChannelDescription {
  readonly channel: ChannelDescription;
}

type Send = Extract<IcSessionEffect, { readonly kind: "send" }>;

/** Packets of one poll outside the dispatcher. */
const POLL_BUDGET = 16;

/**
 * The guest's end of an integration component's channel: the queue half of its driver, on the boot processor.
 *
 * Hears the host from `listen` on. A component that cannot serve for a while says `hold`: what the host sends
 * meanwhile stays in the ring, the offer of versions included, and the host waits.
 */
export class IcChannel implements QueueHalf, ChannelHandler {
  readonly counters: IcCounters = {
    negotiations: 0,
    requests: 0,
    answers: 0,
    cancelled: 0,
    refused: 0,
    dropped: 0,
  };
  readonly #context: QueueContext;
  readonly #description: ChannelDescription;
  readonly #channel: Channel;
  #state: IcSessionState = icSessionStart;
  #service: IcService | undefined;
  /** Answers for which the ring had no room. It is not read until they are out, so they are few. */
  readonly #waiting: Send[] = [];
  #isHeld = true;
  #isPolling = false;
  #closedReason: ChannelClosedReason | undefined;

  /** Binds the channel to the CPU of `context`; the host is not heard yet. */
  constructor(context: QueueContext, { channel }: IcChannelDescription) {
    this.#context = context;
    this.#description = channel;
    this.#channel = context.bindChannel(channel, this);
    this.#channel.pause();
  }

  /** The agreed versions; undefined while there are none. */
  get versions(): IcVersions | undefined {
    return "versions" in this.#state ? this.#state.versions : undefined;
  }

  /** Why the channel closed; undefined while it is open. */
  get closedReason(): ChannelClosedReason | undefined {
    return this.#closedReason;
  }

  /** Says what the component is; to be called once, before `listen`. */
  serve(service: IcService): void {
    if (this.#service !== undefined) throw new Error("the channel is served already");
    this.#service = service;
  }

  /** Hears the host from now on. */
  listen(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#resume();
  }

  /** Hears the host no more after the current packet; a request that the component has may still be answered. */
  hold(): void {
    this.#isHeld = true;
    this.#channel.pause();
  }

  /** Answers a request, before this returns; an answer that the host no longer waits for is dropped. */
  respond(request: IcRequest, status: IcStatus, body: Uint8Array): void {
    this.#input({ kind: "answer", request, status, body });
    this.#channel.flush();
  }

  answer(): unknown {
    throw new Error("an integration component is asked nothing from another CPU");
  }

  stop(reason: ChannelClosedReason = "closed"): void {
    this.#context.unbindChannel(this.#description, reason);
  }

  packet(channel: Channel): void {
    this.#isPolling = true;
    const { incoming } = channel;
    if (incoming.type !== PacketType.inBand) {
      this.counters.dropped++;
      return;
    }
    const payload = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    const { idLow, idHigh } = incoming;
    this.#input({ kind: "packet", payload, idLow, idHigh });
  }

  batchEnd(channel: Channel): void {
    this.#isPolling = false;
    channel.flush();
  }

  spaceArrived(): void {
    this.#isPolling = true;
    this.#sendWaiting();
  }

  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.#closedReason = reason;
    if (this.#service === undefined) return;
    this.#input({ kind: "closed" });
    this.#service.closed?.(reason);
  }

  get #served(): IcService {
    if (this.#service === undefined) throw new Error("nobody serves the channel");
    return this.#service;
  }

  /** A request is answered inside the effect that hands it over: the new state is there before its effects. */
  #input(input: IcSessionInput): void {
    const { state, effects } = icSession(this.#served, this.#state, input);
    this.#state = state;
    for (const effect of effects) this.#carryOut(effect);
  }

  #carryOut(effect: IcSessionEffect): void {
    const { counters } = this;
    switch (effect.kind) {
      case "send":
        this.#waiting.push(effect);
        this.#sendWaiting();
        return;
      case "agreed":
        counters.negotiations++;
        this.#served.agreed?.(effect.versions);
        return;
      case "request":
        counters.requests++;
        this.#served.request(effect.request, this.versions!);
        return;
      case "cancelled":
        counters.cancelled++;
        this.#served.cancelled?.(effect.request);
        return;
      case "refused":
        counters.refused++;
        return;
      case "dropped":
        counters.dropped++;
    }
  }

  /** Sends what waits; without room for it the host is not heard until there is. */
  #sendWaiting(): void {
    const channel = this.#channel;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const { payload, idLow, idHigh } = next;
      const { descriptorBytes } = Packet;
      const packetBytes = descriptorBytes + payload.byteLength;
      const { inBand } = PacketType;
      const result = channel.begin(inBand, 0, descriptorBytes, packetBytes, idLow, idHigh);
      if (result === SendResult.Full) {
        channel.pause();
        if (channel.waitForSpace(packetBytes)) continue;
        return;
      }
      // A channel that is closed waits for no answer.
      if (result === SendResult.Ready) {
        channel.outgoing.putBytes(payload, 0, payload.byteLength);
        channel.outgoing.end();
        this.counters.answers++;
      }
      this.#waiting.shift();
    }
    this.#resume();
  }

  #resume(): void {
    if (this.#isHeld || this.#waiting.length > 0) return;
    this.#channel.resume();
    // Inside a poll the loop goes on by itself.
    if (this.#isPolling) return;
    while (this.#channel.poll(POLL_BUDGET) === PollResult.More);
  }
}
