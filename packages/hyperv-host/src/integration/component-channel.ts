import { Machine, SendResult, type Channel } from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import type { IcVersions } from "@hyperv-is/hv-utils/protocol";
import type { HostChannelHandler, ServiceContext } from "../host-service.js";
import {
  stepComponent,
  type ComponentEffect,
  type ComponentInput,
  type ComponentSpeech,
  type ComponentState,
} from "./component-session.js";

/** Who asks a guest's component, and hears what it says. Called inside the channel's packets and timers. */
export interface ComponentOwner extends ComponentSpeech {
  /** All that the conversation brings but what is to be sent. */
  heard(effect: Exclude<ComponentEffect, { readonly kind: "send" | "violation" }>): void;
}

/** The host's end of an integration component's channel. */
export class ComponentChannel implements HostChannelHandler {
  readonly #context: ServiceContext;
  readonly #session: Machine<ComponentState, ComponentInput, ComponentEffect>;
  #channel: Channel | undefined;
  /** Requests for which the ring has no room: an offer, and the request that it has cut off. */
  readonly #waiting: Uint8Array[] = [];

  constructor(context: ServiceContext, owner: ComponentOwner) {
    this.#context = context;
    this.#session = new Machine<ComponentState, ComponentInput, ComponentEffect>(
      context.timers,
      { name: "closed" },
      (state, input, now) => stepComponent(owner, state, input, now),
      (effect) => {
        if (effect.kind === "send") this.#send(effect.payload);
        else if (effect.kind === "violation") this.fail(effect.rule, effect.detail);
        else owner.heard(effect);
      },
    );
  }

  get state(): ComponentState["name"] {
    return this.#session.state.name;
  }

  /** The agreed versions; undefined while there are none. */
  get versions(): IcVersions | undefined {
    const { state } = this.#session;
    return "versions" in state ? state.versions : undefined;
  }

  /** Asks the guest; what becomes of it is heard by the owner. */
  ask(body: Uint8Array, timeoutMs?: number): void {
    this.#session.input({ kind: "ask", body, timeoutMs });
    this.#channel?.flush();
  }

  /** Begins the conversation anew. */
  renegotiate(): void {
    this.#session.input({ kind: "renegotiate" });
    this.#channel?.flush();
  }

  /** Records that the guest broke a rule, and ends the conversation. */
  fail(rule: string, detail: string): void {
    if (this.#channel === undefined) this.#context.violation(rule, detail);
    else this.#channel.fail(`ERR_${rule.toUpperCase().replaceAll("-", "_")}`, detail);
  }

  opened(channel: Channel): void {
    this.#channel = channel;
    this.#session.input({ kind: "opened" });
    channel.flush();
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    if (incoming.type !== PacketType.inBand) {
      this.fail("ic-packet-type", `a packet of type ${incoming.type}`);
      return;
    }
    if (incoming.completionRequested) {
      this.fail("ic-completion-requested", "a packet that asks for a completion");
      return;
    }
    const payload = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    this.#session.input({ kind: "packet", payload });
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(): void {
    this.#sendWaiting();
  }

  closed(): void {
    this.#waiting.length = 0;
    this.#session.input({ kind: "closed" });
  }

  release(done: () => void): void {
    done();
  }

  /** Nothing of a component's conversation outlives a save: it begins anew, as `opened` has it. */
  save(): { readonly data: undefined } {
    return { data: undefined };
  }

  #send(payload: Uint8Array): void {
    this.#waiting.push(payload);
    this.#sendWaiting();
  }

  #sendWaiting(): void {
    const channel = this.#channel!;
    const { descriptorBytes } = Packet;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const bytes = descriptorBytes + Math.ceil(next.byteLength / 8) * 8;
      const result = channel.begin(PacketType.inBand, 0, descriptorBytes, bytes, 0, 0);
      if (result === SendResult.Full) {
        if (channel.waitForSpace(bytes)) continue;
        return;
      }
      if (result === SendResult.Ready) {
        channel.outgoing.putBytes(next, 0, next.byteLength);
        channel.outgoing.end();
      }
      this.#waiting.shift();
    }
  }
}
