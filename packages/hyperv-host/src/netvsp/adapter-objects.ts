import type { NetvspSession } from "./netvsp-session.js";
import type { OffloadSettings } from "./offload-settings.js";
import type { OidSource } from "./oid-answers.js";
import type { ReceiveScaling } from "./receive-scaling.js";

/** What of an adapter is the same for every guest, or changes without one. */
export interface AdapterFacts {
  readonly mac: Uint8Array<ArrayBuffer>;
  /** Bits per second. */
  readonly linkSpeed: number;
  /** Channels that there may be. */
  readonly queues: number;
  isLinkUp(): boolean;
  /** The guest is to be told what offloads are on now. */
  offloadsChanged(session: NetvspSession): void;
}

/** The objects of an adapter as one guest's driver sees them. */
export class AdapterObjects implements OidSource {
  readonly #facts: AdapterFacts;
  readonly #session: NetvspSession;

  constructor(facts: AdapterFacts, session: NetvspSession) {
    this.#facts = facts;
    this.#session = session;
  }

  get mac(): Uint8Array<ArrayBuffer> {
    return this.#facts.mac;
  }

  get mtu(): number {
    return this.#session.mtu;
  }

  get ndisVersion(): { readonly major: number; readonly minor: number } {
    const { negotiation } = this.#session;
    const known = negotiation.name === "init" ? undefined : negotiation.ndisVersion;
    return known ?? { major: 0, minor: 0 };
  }

  get linkSpeed(): number {
    return this.#facts.linkSpeed;
  }

  get isLinkUp(): boolean {
    return this.#facts.isLinkUp();
  }

  get queues(): number {
    return this.#facts.queues;
  }

  get offloads(): OffloadSettings {
    return this.#session.offloads;
  }

  get scaling(): ReceiveScaling {
    return this.#session.scaling;
  }

  set packetFilter(filter: number) {
    this.#session.packetFilter = filter;
  }

  set multicastList(list: Uint8Array) {
    this.#session.multicastList = list;
  }

  offloadsChanged(): void {
    this.#session.updateOffloads();
    this.#facts.offloadsChanged(this.#session);
  }
}
