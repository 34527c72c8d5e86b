import type { ChannelDescription } from "../channel-description.js";
import type { Gpadl, PrepareChannelOptions, SubChannel, VmbusDevice } from "../driver.js";
import {
  CloseChannel,
  GPADL_MAX_PAGES,
  MessageType,
  ModifyChannel,
  OpenChannel,
  RING_MIN_PAGES,
  USER_DATA_SIZE,
  type OfferChannel,
} from "../protocol/index.js";
import { BusError } from "./bus-error.js";
import type { BusLink } from "./bus-link.js";
import {
  stepChannel,
  type ChannelEffect,
  type ChannelInput,
  type ChannelState,
} from "./channel-lifecycle.js";
import { hasMessage } from "./connection.js";
import { hostSignal } from "./host-signal.js";
import type { BusChannelInspection } from "./inspection.js";
import { Machine } from "./machine.js";
import { SharedPages } from "./shared-pages.js";
import { Waiter } from "./waiter.js";

/** The rings of a prepared channel. */
interface Rings {
  readonly pages: SharedPages;
  description: ChannelDescription;
  /** For OPENCHANNEL. */
  userData: Uint8Array;
  closing: Promise<void> | undefined;
}

/** The reason why a channel can do nothing any more. */
type GoneCode = "ERR_RESCINDED" | "ERR_UNLOADED";

const NO_USER_DATA = new Uint8Array(0);

/**
 * A channel that the host offers, from its offer to its release: the control plane's side of it, on the
 * boot processor. A primary channel stands for its device.
 */
export class BusChannel implements VmbusDevice, SubChannel {
  readonly offer: OfferChannel;
  readonly #link: BusLink;
  readonly #primary: BusChannel | undefined;
  readonly #machine: Machine<ChannelState, ChannelInput, ChannelEffect>;
  readonly #rescinded = new Waiter();
  readonly #shared = new Set<SharedPages>();
  readonly #subChannels = new Set<BusChannel>();
  readonly #subscribers: ((channel: SubChannel) => void)[] = [];
  #gone: GoneCode | undefined;
  #cpu = 0;
  #rings: Rings | undefined;
  #preparing = false;
  #opener: Waiter | undefined;
  #mover: Waiter | undefined;
  #closer: Waiter | undefined;
  /** Where `moveChannel` wants the interrupts. */
  #newVp = 0;

  /** @param primary - Undefined if this is a primary channel itself. */
  constructor(link: BusLink, offer: OfferChannel, primary?: BusChannel) {
    this.#link = link;
    this.offer = offer;
    this.#primary = primary;
    this.#machine = new Machine<ChannelState, ChannelInput, ChannelEffect>(
      link.timers,
      { name: "closed" },
      (state, input, now) => stepChannel(state, input, now, link.answerMs),
      (effect) => this.#carryOut(effect),
    );
  }

  get classId(): string {
    return this.offer.classId;
  }

  get instanceId(): string {
    return this.offer.instanceId;
  }

  get relid(): number {
    return this.offer.relid;
  }

  get index(): number {
    return this.offer.subChannelIndex;
  }

  get busVersion(): number {
    return this.#link.negotiated.version;
  }

  get userDefined(): Uint8Array {
    return this.offer.userData;
  }

  get rescinded(): Promise<void> {
    return this.#rescinded.promise;
  }

  get state(): ChannelState["name"] {
    return this.#machine.state.name;
  }

  /** True if a device protocol can be running on the channel. */
  get isOpen(): boolean {
    return this.state === "opening" || this.state === "open" || this.state === "modifying";
  }

  /** True once the host has taken the channel away. */
  get isGone(): boolean {
    return this.#gone !== undefined;
  }

  assignCpu(): number {
    this.#cpu = this.#link.assignCpu({
      classId: this.classId,
      subChannelIndex: this.index,
      base: this.#primary === undefined ? 0 : this.#primary.#cpu,
    });
    return this.#cpu;
  }

  async prepareChannel(options: PrepareChannelOptions): Promise<ChannelDescription> {
    const { outgoingPages, incomingPages, cpu, lowLatency = false } = options;
    if (this.#rings !== undefined || this.#preparing)
      throw new Error(`channel ${this.relid} is prepared already`);
    const pageCount = outgoingPages + incomingPages;
    if (outgoingPages < RING_MIN_PAGES || incomingPages < RING_MIN_PAGES)
      throw new RangeError(`a ring has at least ${RING_MIN_PAGES} pages`);
    const targetVp = this.#link.vpIndexOf(cpu);
    this.#preparing = true;
    try {
      const pages = await this.#share(pageCount);
      this.#cpu = cpu;
      const description: ChannelDescription = {
        relid: this.relid,
        subChannelIndex: this.index,
        targetVp,
        ringAddress: pages.address,
        outgoingPages,
        incomingPages,
        signal: hostSignal(this.offer, this.busVersion, this.#link.signalPages, lowLatency),
      };
      this.#rings = { pages, description, userData: NO_USER_DATA, closing: undefined };
      return description;
    } finally {
      this.#preparing = false;
    }
  }

  async openChannel(description: ChannelDescription, userData = NO_USER_DATA): Promise<void> {
    if (this.#opener !== undefined) throw this.#error("ERR_BUSY", "opening");
    const rings = this.#prepared(description);
    if (userData.byteLength > USER_DATA_SIZE)
      throw new RangeError(`at most ${USER_DATA_SIZE} bytes of user data`);
    rings.userData = userData;
    this.#opener = new Waiter();
    const { promise } = this.#opener;
    this.#machine.input({ kind: "open" });
    await promise;
  }

  async moveChannel(description: ChannelDescription, cpu: number): Promise<ChannelDescription> {
    const { negotiated } = this.#link;
    if (this.#mover !== undefined) throw this.#error("ERR_BUSY", "moving");
    const rings = this.#prepared(description);
    if (!hasMessage(negotiated, MessageType.modifyChannel))
      throw this.#error("ERR_UNSUPPORTED", "moving");
    this.#newVp = this.#link.vpIndexOf(cpu);
    this.#mover = new Waiter();
    const { promise } = this.#mover;
    const acknowledged = hasMessage(negotiated, MessageType.modifyChannelResponse);
    this.#machine.input({ kind: "modify", acknowledged });
    await promise;
    this.#cpu = cpu;
    rings.description = { ...description, targetVp: this.#newVp };
    return rings.description;
  }

  closeChannel(description: ChannelDescription): Promise<void> {
    const rings = this.#ringsOf(description);
    if (rings === undefined) return Promise.resolve();
    rings.closing ??= this.#close(rings);
    return rings.closing;
  }

  async createGpadl(pageCount: number): Promise<Gpadl> {
    const { gpadlId, address } = await this.#share(pageCount);
    return { gpadlId, address, pageCount };
  }

  async tearDownGpadl({ gpadlId }: Gpadl): Promise<void> {
    for (const pages of this.#shared)
      if (pages.gpadlId === gpadlId && pages !== this.#rings?.pages) await pages.release();
  }

  onSubChannel(offered: (channel: SubChannel) => void): void {
    this.#subscribers.push(offered);
    for (const channel of this.#subChannels) offered(channel);
  }

  /** The host has offered a further channel of this device. */
  addSubChannel(channel: BusChannel): void {
    this.#subChannels.add(channel);
    for (const offered of this.#subscribers) offered(channel);
  }

  /** OPENCHANNEL_RESULT or MODIFYCHANNEL_RESPONSE. */
  input(input: ChannelInput & { readonly kind: "result" | "modified" }): void {
    this.#machine.input(input);
  }

  /** RESCIND_CHANNELOFFER: wakes whoever waits, then gives the relid back as soon as nothing of the channel is left. */
  rescind(): void {
    this.#vanish("ERR_RESCINDED", "rescinded");
    this.#releaseIfDone();
  }

  /** UNLOAD is being sent: the same, but no message may follow. */
  unload(): void {
    this.#vanish("ERR_UNLOADED", "unload");
  }

  inspect(): BusChannelInspection {
    return {
      relid: this.relid,
      index: this.index,
      classId: this.classId,
      instanceId: this.instanceId,
      state: this.state,
      cpu: this.#cpu,
      monitorId: this.offer.monitorAllocated ? this.offer.monitorId : null,
      gpadls: Array.from(this.#shared, ({ gpadlId, pageCount, state }) => ({
        gpadlId,
        pageCount,
        state,
      })),
    };
  }

  #vanish(code: GoneCode, kind: "rescinded" | "unload"): void {
    this.#gone ??= code;
    if (this.#primary !== undefined) this.#primary.#subChannels.delete(this);
    this.#machine.input({ kind });
    for (const pages of this.#shared) pages.input({ kind });
    this.#rescinded.resolve();
  }

  /** The rings that a description is about, which may have travelled; undefined if they are gone. */
  #ringsOf({ relid, ringAddress }: ChannelDescription): Rings | undefined {
    const current = this.#rings?.description;
    return relid === this.relid && ringAddress === current?.ringAddress ? this.#rings : undefined;
  }

  #prepared(description: ChannelDescription): Rings {
    const rings = this.#ringsOf(description);
    if (rings?.closing !== undefined || rings === undefined)
      throw new Error(`channel ${this.relid} is not prepared`);
    return rings;
  }

  async #share(pageCount: number): Promise<SharedPages> {
    if (!Number.isInteger(pageCount) || pageCount < 1 || pageCount > GPADL_MAX_PAGES)
      throw new RangeError(`a GPADL has 1 to ${GPADL_MAX_PAGES} pages`);
    if (this.#gone !== undefined) throw this.#error(this.#gone, "sharing memory");
    const pages = new SharedPages(this.#link, this.relid, pageCount, (settled) => {
      this.#shared.delete(settled);
      this.#releaseIfDone();
    });
    this.#shared.add(pages);
    await pages.announce();
    return pages;
  }

  async #close(rings: Rings): Promise<void> {
    this.#closer = new Waiter();
    const { promise } = this.#closer;
    this.#machine.input({ kind: "close" });
    await promise;
    // The host may yet open a channel of which it has never told: its rings cannot even be asked back.
    if (this.state === "stuck") rings.pages.input({ kind: "forsake" });
    else await rings.pages.release();
    this.#rings = undefined;
  }

  /** Whatever the host may still know of the channel is memory that it shares. */
  #releaseIfDone(): void {
    if (this.#gone === "ERR_RESCINDED" && this.#shared.size === 0) this.#link.release(this);
  }

  #carryOut(effect: ChannelEffect): void {
    switch (effect.kind) {
      case "send-open":
        this.#sendOpen();
        break;
      case "send-close":
        this.#send("close", CloseChannel.emit({ relid: this.relid }));
        break;
      case "send-modify":
        this.#send("modify", ModifyChannel.emit({ relid: this.relid, targetVp: this.#newVp }));
        break;
      case "opened":
        this.#opener?.resolve();
        this.#opener = undefined;
        break;
      case "open-failed":
        this.#opener?.reject(this.#error(effect.code, "opening", effect.status));
        this.#opener = undefined;
        break;
      case "modified":
        this.#mover?.resolve();
        this.#mover = undefined;
        break;
      case "modify-failed":
        this.#mover?.reject(this.#error(effect.code, "moving", effect.status));
        this.#mover = undefined;
        break;
      case "closed":
        this.#closer?.resolve();
        this.#closer = undefined;
        break;
      case "unexpected":
        this.#link.counters.unmatched++;
        break;
    }
  }

  #sendOpen(): void {
    const { pages, description, userData } = this.#rings!;
    const open = OpenChannel.emit(
      {
        relid: this.relid,
        openId: this.relid,
        ringGpadlId: pages.gpadlId,
        targetVp: description.targetVp,
        downstreamPageOffset: description.outgoingPages,
        userData,
        // No wishes of our own, but from 6.0 on that has to be said.
        signal: { connectionId: description.signal.connectionId, eventFlag: this.relid },
        redirectInterrupt: false,
      },
      this.#link.negotiated.features,
    );
    this.#send("open", open);
  }

  #send(message: "open" | "close" | "modify", bytes: Uint8Array): void {
    this.#link.send([bytes], ({ status }) =>
      this.#machine.input({ kind: "post-failed", message, status }),
    );
  }

  #error(code: BusError["code"], what: string, status?: number): BusError {
    return new BusError(code, `${what} channel ${this.relid}`, status);
  }
}
