import { Machine, SendResult, type Channel, type Timer } from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { IcMessageType, type IcVersions } from "@hyperv-is/hv-utils/protocol";
import type { FaultAt, FaultContext } from "../faults.js";
import type { HostChannelHandler, ServiceContext } from "../host-service.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import {
  stepComponent,
  type ComponentEffect,
  type ComponentInput,
  type ComponentSpeech,
  type ComponentState,
} from "./component-session.js";
import { damageFrame, damageKvp } from "./damage.js";

/** The device that a component's channel belongs to. */
export type ComponentDevice = Pick<ChannelOpening, "classId" | "instanceId">;

/** Who asks a guest's component, and hears what it says. Called inside the channel's packets and timers. */
export interface ComponentOwner extends ComponentSpeech {
  /** All that the conversation brings but what is to be sent. */
  heard(effect: Exclude<ComponentEffect, { readonly kind: "send" | "violation" }>): void;
}

/**
 * Transaction id of a message that a fault sends besides; all others have 0. Guests put the id of a request into the packet
 * of its answer, so that one answer to each of them is known, and dropped.
 */
const BESIDES_ID = 0x0fa1_7000;

/** A message on its way to the guest. */
interface Outgoing {
  readonly payload: Uint8Array;
  readonly idLow: number;
}

/** The host's end of an integration component's channel. */
export class ComponentChannel implements HostChannelHandler {
  readonly #context: ServiceContext;
  readonly #session: Machine<ComponentState, ComponentInput, ComponentEffect>;
  #channel: Channel | undefined;
  readonly #type: IcMessageType;
  readonly #fault: FaultContext;
  /** Requests for which the ring has no room: an offer, the request that it has cut off, and what faults send. */
  readonly #waiting: Outgoing[] = [];
  /** A request that a fault keeps back. */
  #late: Timer | undefined;
  /** Messages that faults sent besides, and the guest has not answered: it need not. */
  #besides = 0;

  constructor(context: ServiceContext, device: ComponentDevice, owner: ComponentOwner) {
    this.#context = context;
    this.#type = owner.type;
    this.#fault = { classId: device.classId, instanceId: device.instanceId };
    this.#session = new Machine<ComponentState, ComponentInput, ComponentEffect>(
      context.timers,
      { name: "closed" },
      (state, input, now) => stepComponent(owner, state, input, now),
      (effect) => {
        if (effect.kind === "send") this.#request(effect.payload);
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
    if (incoming.idLow === BESIDES_ID && this.#besides > 0) {
      this.#besides--;
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
    this.#late?.cancel();
    this.#session.input({ kind: "closed" });
  }

  release(done: () => void): void {
    done();
  }

  /** Nothing of a component's conversation outlives a save: it begins anew, as `opened` has it. */
  save(): { readonly data: undefined } {
    return { data: undefined };
  }

  /** Sends an offer or a request as the fault plan lets it. What was kept back before is void with it. */
  #request(payload: Uint8Array): void {
    this.#late?.cancel();
    const fault = this.#faultNow();
    switch (fault?.kind) {
      case "late-request":
        this.#late = this.#context.timers.after(fault.delayMs, () => {
          this.#send(payload);
          this.#channel?.flush();
        });
        return;
      case "malformed-message":
        this.#sendBesides(damageFrame(payload, fault.damage));
        break;
      case "malformed-kvp":
        this.#sendBesides(damageKvp(payload, fault.damage));
        break;
      case "repeated-request":
        this.#send(payload);
        this.#sendBesides(payload);
        return;
      case "renegotiation":
        this.#send(payload);
        this.#session.input({ kind: "renegotiate" });
        return;
      case undefined:
    }
    this.#send(payload);
  }

  #faultNow(): FaultAt<"component.request"> | FaultAt<"kvp.request"> | undefined {
    const { faults } = this.#context;
    // An offer is asked of no administrator: faults are for requests.
    if (this.versions === undefined) return undefined;
    const own =
      this.#type === IcMessageType.kvp ? faults.at("kvp.request", this.#fault) : undefined;
    return own ?? faults.at("component.request", this.#fault);
  }

  #sendBesides(payload: Uint8Array): void {
    this.#besides++;
    this.#send(payload, BESIDES_ID);
  }

  #send(payload: Uint8Array, idLow = 0): void {
    this.#waiting.push({ payload, idLow });
    this.#sendWaiting();
  }

  #sendWaiting(): void {
    const channel = this.#channel!;
    const { descriptorBytes } = Packet;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const { payload, idLow } = next;
      const bytes = descriptorBytes + Math.ceil(payload.byteLength / 8) * 8;
      const result = channel.begin(PacketType.inBand, 0, descriptorBytes, bytes, idLow, 0);
      if (result === SendResult.Full) {
        if (channel.waitForSpace(bytes)) continue;
        return;
      }
      if (result === SendResult.Ready) {
        channel.outgoing.putBytes(payload, 0, payload.byteLength);
        channel.outgoing.end();
      }
      this.#waiting.shift();
    }
  }
}
