import type { VmbusDevice } from "../driver.js";
import type { GuestCpu } from "../guest-cpu.js";
import {
  Feature,
  GpadlCreated,
  GpadlTorndown,
  InitiateContact,
  MessageType,
  ModifyChannelResponse,
  NIL_GUID,
  OfferChannel,
  OpenChannelResult,
  PAGE_SIZE,
  ProtocolVersion,
  RelidReleased,
  RequestOffers,
  RescindChannelOffer,
  Unload,
  VMBUS_SINT,
  VersionResponse,
  contactConnectionId,
  formatVersion,
  messageConnectionId,
  negotiationOrder,
  parseHeader,
  versionHas,
} from "../protocol/index.js";
import { BusChannel } from "./bus-channel.js";
import { BusError } from "./bus-error.js";
import type { BusLink, VmbusCounters } from "./bus-link.js";
import { bindChannelCpu, type ChannelToBind } from "./channel-binding.js";
import { ConnectionPages } from "./connection-pages.js";
import {
  stepConnection,
  type Connection,
  type ConnectionEffect,
  type ConnectionInput,
} from "./connection.js";
import { GpadlTable } from "./gpadl-table.js";
import type { VmbusInspection } from "./inspection.js";
import { Machine } from "./machine.js";
import { OfferTable } from "./offers.js";
import { PostQueue, linuxPostRetries, type PostFailure } from "./post-queue.js";
import {
  DEFAULT_TIMEOUTS,
  KNOWN_FEATURES,
  type VmbusOptions,
  type VmbusTimeouts,
} from "./vmbus-options.js";
import { Waiter } from "./waiter.js";

/**
 * The guest's end of the bus: connects, takes the host's offers, lets drivers open channels, and leaves.
 *
 * Lives on the boot processor. It decides nothing itself: state machines do, and this carries out what
 * they say. Nothing that a host sends can make it throw, or wait longer than its time-outs.
 */
export class Vmbus {
  readonly #cpu: GuestCpu;
  readonly #options: VmbusOptions;
  readonly #versions: readonly ProtocolVersion[];
  readonly #features: number;
  readonly #vpIndexes: readonly number[];
  readonly #timeouts: VmbusTimeouts;
  readonly #posts: PostQueue;
  readonly #machine: Machine<Connection, ConnectionInput, ConnectionEffect>;
  readonly #deviceSubscribers: ((device: VmbusDevice) => void)[] = [];
  readonly #rescindSubscribers: ((device: VmbusDevice) => void)[] = [];
  readonly #counters: VmbusCounters = {
    messages: 0,
    malformed: 0,
    unmatched: 0,
    offersRefused: 0,
    relidsReleased: 0,
    postFailures: 0,
    leakedPages: 0,
  };
  #connector: Waiter<ProtocolVersion> | undefined;
  #enumerator: Waiter | undefined;
  #unloader: Waiter | undefined;
  /** From the first contact to the end of the connection. */
  #pages: ConnectionPages | undefined;
  /** The newest answer to a contact. */
  #response: VersionResponse | undefined;
  /** What the channels see of the connection, as long as there is one. */
  #link: BusLink | undefined;
  #connectionId = 0;
  #offers = new OfferTable(0);
  readonly #channels = new Map<number, BusChannel>();
  /** The binding policy's round robin. */
  #bindingCounter = 0;

  /** Throws a RangeError if no version is left to try, or a feature is asked for that this guest does not know. */
  constructor(options: VmbusOptions) {
    const { cpu, clientId, features = Feature.guestSignalParameters } = options;
    this.#options = options;
    this.#cpu = cpu;
    this.#versions = negotiationOrder(options.ceiling ?? Number.POSITIVE_INFINITY).filter(
      (version) => options.versions?.includes(version) ?? true,
    );
    if (this.#versions.length === 0) throw new RangeError("no protocol version to try");
    this.#features = features | (clientId === undefined ? 0 : Feature.clientId);
    if ((this.#features & ~KNOWN_FEATURES) !== 0)
      throw new RangeError(`features 0x${this.#features.toString(16)} are not all known`);
    this.#vpIndexes = options.vpIndexes ?? [cpu.vpIndex];
    this.#timeouts = { ...DEFAULT_TIMEOUTS, ...options.timeouts };
    this.#posts = new PostQueue(
      (connectionId, message) => cpu.postMessage(connectionId, message),
      cpu.timers,
      options.postRetries ?? linuxPostRetries,
    );
    this.#machine = new Machine<Connection, ConnectionInput, ConnectionEffect>(
      cpu.timers,
      { name: "disconnected" },
      (state, input, now) => stepConnection(state, input, now, this.#timeouts),
      (effect) => this.#carryOut(effect),
    );
  }

  /** Devices that the host offers, in the order of their offers. */
  get devices(): readonly VmbusDevice[] {
    return [...this.#channels.values()].filter(({ index, isGone }) => index === 0 && !isGone);
  }

  /**
   * Negotiates, newest version first; resolves with the version.
   *
   * Rejects with `ERR_VERSION`, `ERR_CONNECT_FAILED`, `ERR_POST_FAILED`, `ERR_TIMEOUT`, `ERR_UNLOADED` (if
   * `unload` came in between), `ERR_NO_MEMORY`, or `ERR_NO_HYPERVISOR`. To be called while disconnected.
   */
  async connect(): Promise<ProtocolVersion> {
    const { hypervisor, guestOsId } = this.#options;
    if (this.#machine.state.name !== "disconnected")
      throw new Error("the bus is connected already");
    this.#pages = new ConnectionPages(hypervisor, this.#cpu.allocator, guestOsId);
    this.#cpu.setMessageHandler((message) => this.#receive(message));
    this.#connector = new Waiter();
    const { promise } = this.#connector;
    this.#machine.input({ kind: "connect", versions: this.#versions });
    return promise;
  }

  /** Asks for the devices; resolves when the host has offered all that it has now. Once per connection. */
  async requestOffers(): Promise<void> {
    if (this.#enumerator !== undefined) throw new BusError("ERR_BUSY", "requesting offers");
    this.#enumerator = new Waiter();
    const { promise } = this.#enumerator;
    this.#machine.input({ kind: "request-offers" });
    await promise;
  }

  /**
   * Leaves the bus: all that waits rejects with `ERR_UNLOADED`, all devices are gone. Resolves when the host
   * has let go of the guest's memory; rejects with `ERR_TIMEOUT` or `ERR_POST_FAILED` if it has not said so,
   * and what it still knows of is leaked. Drivers are expected to have closed their channels.
   */
  unload(): Promise<void> {
    this.#unloader ??= new Waiter();
    const { promise } = this.#unloader;
    this.#machine.input({ kind: "unload" });
    return promise;
  }

  /** Calls back for each device, those that are there already included. */
  onDevice(offered: (device: VmbusDevice) => void): void {
    this.#deviceSubscribers.push(offered);
    for (const device of this.devices) offered(device);
  }

  /** Calls back when a device is rescinded, after all that waits for it was woken. */
  onRescind(rescinded: (device: VmbusDevice) => void): void {
    this.#rescindSubscribers.push(rescinded);
  }

  /** Counters and the state of every channel, as plain data. */
  inspect(): VmbusInspection {
    const negotiated = this.#link?.negotiated;
    return {
      state: this.#machine.state.name,
      version: negotiated === undefined ? null : formatVersion(negotiated.version),
      features: negotiated?.features ?? 0,
      postRetries: this.#posts.retries,
      counters: { ...this.#counters },
      channels: Array.from(this.#channels.values(), (channel) => channel.inspect()),
    };
  }

  #carryOut(effect: ConnectionEffect): void {
    switch (effect.kind) {
      case "contact":
        this.#post(contactConnectionId(effect.version), this.#contact(effect.version));
        break;
      case "connected":
        this.#link = this.#connected(effect.version, this.#response!);
        this.#connector?.resolve(effect.version);
        this.#connector = undefined;
        break;
      case "connect-failed":
        this.#connector?.reject(new BusError(effect.code, "connecting", effect.status));
        this.#connector = undefined;
        break;
      case "send-request-offers":
        this.#post(this.#connectionId, RequestOffers.emit({}));
        break;
      case "offers-delivered":
        this.#enumerator?.resolve();
        this.#enumerator = undefined;
        break;
      case "offers-failed":
        this.#enumerator?.reject(new BusError(effect.code, "requesting offers", effect.status));
        this.#enumerator = undefined;
        break;
      case "send-unload":
        this.#posts.clear();
        for (const channel of this.#channels.values()) channel.unload();
        this.#post(this.#connectionId, Unload.emit({}));
        break;
      case "disconnected":
        this.#disconnected(effect.confirmed);
        break;
      case "unloaded":
        if (effect.code === undefined) this.#unloader?.resolve();
        else this.#unloader?.reject(new BusError(effect.code, "unloading", effect.status));
        this.#unloader = undefined;
        break;
      case "unexpected":
        this.#counters.unmatched++;
        break;
    }
  }

  /** Posts a message of the connection itself. */
  #post(connectionId: number, message: Uint8Array): void {
    this.#posts.send(connectionId, [message], ({ status }) => {
      this.#counters.postFailures++;
      this.#machine.input({ kind: "post-failed", status });
    });
  }

  #contact(version: ProtocolVersion): Uint8Array {
    const { monitorPages = true, clientId = NIL_GUID } = this.#options;
    const pages = this.#pages!;
    return InitiateContact.emit({
      version,
      targetVp: this.#cpu.vpIndex,
      interruptPageGpa: pages.interruptPage,
      sint: VMBUS_SINT,
      vtl: 0,
      features: this.#features,
      parentToChildMonitorGpa: monitorPages ? pages.parentToChildMonitor : 0,
      childToParentMonitorGpa: monitorPages ? pages.childToParentMonitor : 0,
      clientId,
    });
  }

  #connected(version: ProtocolVersion, response: VersionResponse): BusLink {
    const { memory, timers, allocator } = this.#cpu;
    const pages = this.#pages!;
    // What was not asked for is not granted.
    const features = response.features & this.#features;
    const hostMonitor = response.childToParentMonitorGpa;
    let monitorPage = this.#options.monitorPages === false ? 0 : pages.childToParentMonitor;
    if ((features & Feature.hostMonitorPages) !== 0) {
      const usable = hostMonitor % PAGE_SIZE === 0 && memory.contains(hostMonitor, PAGE_SIZE);
      monitorPage = usable ? hostMonitor : 0;
    }
    this.#connectionId = messageConnectionId(version, response);
    this.#offers = new OfferTable(version);
    this.#cpu.useInterruptPage(versionHas(version, "eventFlags") ? undefined : pages.interruptPage);
    return {
      timers,
      allocator,
      counters: this.#counters,
      gpadls: new GpadlTable(),
      negotiated: { version, features },
      signalPages: {
        interruptPage: versionHas(version, "targetInfo") ? 0 : pages.interruptPage,
        monitorPage,
      },
      answerMs: this.#timeouts.answerMs,
      send: (messages, failed) => this.#send(messages, failed),
      vpIndexOf: (cpu) => this.#vpIndexOf(cpu, version),
      assignCpu: (channel) => this.#assignCpu(channel, version),
      release: (channel) => this.#release(channel),
    };
  }

  #disconnected(confirmed: boolean): void {
    this.#posts.clear();
    this.#cpu.setMessageHandler(undefined);
    this.#cpu.useInterruptPage(undefined);
    this.#link?.gpadls.unloaded(confirmed);
    this.#link = undefined;
    this.#channels.clear();
    this.#counters.leakedPages += this.#pages?.drop(confirmed) ?? 0;
    this.#pages = undefined;
  }

  /** True while messages other than contact and unload may be sent. */
  get #isConnected(): boolean {
    const { name } = this.#machine.state;
    return name === "connected" || name === "enumerating";
  }

  #send(messages: readonly Uint8Array[], failed: (failure: PostFailure) => void): void {
    this.#posts.send(this.#connectionId, messages, (failure) => {
      this.#counters.postFailures++;
      failed(failure);
    });
  }

  #vpIndexOf(cpu: number, version: ProtocolVersion): number {
    const vpIndex = this.#vpIndexes[cpu];
    if (vpIndex === undefined) throw new RangeError(`no CPU ${cpu}`);
    if (cpu !== 0 && !versionHas(version, "channelTargetVp"))
      throw new RangeError("below protocol 2.4 all channels are on CPU 0");
    return vpIndex;
  }

  #assignCpu(channel: ChannelToBind, version: ProtocolVersion): number {
    if (!versionHas(version, "channelTargetVp")) return 0;
    const { bindingEra = "freebsd-11" } = this.#options;
    const cpus = this.#vpIndexes.length;
    const { cpu, counter } = bindChannelCpu(bindingEra, channel, this.#bindingCounter, cpus);
    this.#bindingCounter = counter;
    return cpu;
  }

  #release(channel: { readonly relid: number }): void {
    const { relid } = channel;
    if (this.#channels.get(relid) !== channel || !this.#isConnected) return;
    this.#channels.delete(relid);
    this.#offers.release(relid);
    this.#sendReleased(relid);
  }

  #sendReleased(relid: number): void {
    this.#counters.relidsReleased++;
    this.#send([RelidReleased.emit({ relid })], () => undefined);
  }

  /** A channel message, in private memory. */
  #receive(bytes: Uint8Array): void {
    this.#counters.messages++;
    const outcome = parseHeader(bytes, "host-to-guest", this.#link?.negotiated);
    if (outcome.kind !== "ok") this.#counters.malformed++;
    else if (outcome.type === MessageType.versionResponse) this.#answered(bytes);
    else if (outcome.type === MessageType.unloadResponse)
      this.#machine.input({ kind: "unload-response" });
    else if (this.#link !== undefined && this.#isConnected)
      this.#dispatch(this.#link, outcome.type, bytes);
    else this.#counters.unmatched++;
  }

  #answered(bytes: Uint8Array): void {
    const { state } = this.#machine;
    const version = state.name === "contacting" ? state.version : ProtocolVersion.v0_13;
    const response = VersionResponse.parse(bytes, version);
    if (response === undefined) {
      this.#counters.malformed++;
      return;
    }
    this.#response = response;
    this.#machine.input({ kind: "response", response });
  }

  #dispatch(link: BusLink, type: MessageType, bytes: Uint8Array): void {
    switch (type) {
      case MessageType.offerChannel:
        this.#offered(link, OfferChannel.parse(bytes)!);
        break;
      case MessageType.rescindChannelOffer:
        this.#rescinded(RescindChannelOffer.parse(bytes)!.relid);
        break;
      case MessageType.allOffersDelivered:
        this.#machine.input({ kind: "all-offers" });
        break;
      case MessageType.openChannelResult: {
        const { relid, openId, status } = OpenChannelResult.parse(bytes)!;
        const channel = openId === relid ? this.#channels.get(relid) : undefined;
        this.#match(channel)?.input({ kind: "result", status });
        break;
      }
      case MessageType.modifyChannelResponse: {
        const { relid, status } = ModifyChannelResponse.parse(bytes)!;
        this.#match(this.#channels.get(relid))?.input({ kind: "modified", status });
        break;
      }
      case MessageType.gpadlCreated: {
        const { relid, gpadlId, status } = GpadlCreated.parse(bytes)!;
        const gpadl = link.gpadls.get(gpadlId);
        const matched = gpadl?.relid === relid ? gpadl : undefined;
        this.#match(matched)?.input({ kind: "created", status });
        break;
      }
      case MessageType.gpadlTorndown: {
        const { gpadlId } = GpadlTorndown.parse(bytes)!;
        this.#match(link.gpadls.get(gpadlId))?.input({ kind: "torndown" });
        break;
      }
      default:
        // Answers to requests that this guest never makes.
        this.#counters.unmatched++;
    }
  }

  /** What a message is about; an answer about nothing is counted and that is all. */
  #match<Matched>(matched: Matched | undefined): Matched | undefined {
    if (matched === undefined) this.#counters.unmatched++;
    return matched;
  }

  #offered(link: BusLink, offer: OfferChannel): void {
    const isOpen = (relid: number): boolean => this.#channels.get(relid)?.isOpen ?? false;
    const outcome = this.#offers.offer(offer, isOpen);
    if (outcome.kind === "refused") {
      this.#counters.offersRefused++;
      if (outcome.release) this.#sendReleased(offer.relid);
      return;
    }
    const primary = outcome.kind === "device" ? undefined : this.#channels.get(outcome.primary);
    const channel = new BusChannel(link, offer, primary);
    this.#channels.set(offer.relid, channel);
    if (primary !== undefined) primary.addSubChannel(channel);
    else for (const offered of this.#deviceSubscribers) offered(channel);
  }

  #rescinded(relid: number): void {
    const channel = this.#channels.get(relid);
    if (channel === undefined || !this.#offers.rescind(relid)) {
      this.#counters.unmatched++;
      return;
    }
    channel.rescind();
    if (channel.index === 0) for (const rescinded of this.#rescindSubscribers) rescinded(channel);
  }
}
