import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  AllOffersDelivered,
  ConnectionId,
  ConnectionState,
  InitiateContact,
  MessageType,
  ModifyConnection,
  ModifyConnectionResponse,
  NtStatus,
  PauseResponse,
  ProtocolVersion,
  TlConnectRequest,
  TlConnectResult,
  UnloadResponse,
  formatVersion,
  negotiationOrder,
  parseHeader,
  versionHas,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import type { ChannelSummary } from "./channel.js";
import type { SavedBus } from "../saved-partition.js";
import type { SavedWorkerChannel } from "../worker-channel.js";
import { ChannelSet } from "./channel-set.js";
import {
  contactTarget,
  isMisdirected,
  monitorPagesOf,
  negotiate,
  sendHalfOf,
  unsupportedResponse,
  type BusOptions,
  type ConnectionInfo,
  type Contact,
} from "./connection.js";
import { Outbox, type ServerEffect } from "./effects.js";
import { GuestRequests, nameOf } from "./guest-requests.js";
import type { DeviceOffer } from "./offers.js";
import type { RestoredChannel } from "./saved-channel.js";
import type { WorkerReply } from "./worker-link.js";

/** What follows when a guest's connection has ended and nothing of it is in use any more. */
type Sequel =
  | { readonly kind: "unloaded"; readonly info: ConnectionInfo }
  | { readonly kind: "contact"; readonly contact: Contact }
  | { readonly kind: "reset" };

/** Of a connection. */
export type BusState = "disconnected" | "connected" | "disconnecting";

/** A sub-channel of a device. */
export interface SubChannelName {
  readonly instanceId: Guid;
  readonly index: number;
}

/** What a worker says that the bus can answer by itself: without a clock. */
export type BusReply = Exclude<
  WorkerReply,
  { readonly kind: "rescind-device" | "rescind-sub-channel" }
>;

/** A message from the guest, and the connection it was posted on. */
export interface GuestMessage {
  readonly connectionId: number;
  /** Private memory; at most 240 bytes. */
  readonly payload: Uint8Array;
}

/** What the bus needs to know of its machine. */
export interface BusContext {
  readonly memory: GuestMemory;
  readonly vpCount: number;
  readonly options?: BusOptions;
  /** The fault plan's word on a version that the host has. */
  readonly isVersionRefused?: (version: ProtocolVersion) => boolean;
}

/**
 * The VMBus server as a state machine: guest messages, worker replies and the host's wishes go in, and
 * `take` returns what is to be done. No thread, no clock, no memory but to check addresses.
 *
 * Rules: sections 2 and 4 of the bus reference; where that leaves a choice, as OpenVMM's
 * `vmbus_server/src/channels.rs` decides.
 */
export class Bus {
  readonly #context: BusContext;
  readonly #options: BusOptions;
  readonly #outbox = new Outbox();
  readonly #channels: ChannelSet;
  readonly #requests: GuestRequests;
  #state: BusState = "disconnected";
  #sequel: Sequel | undefined;

  constructor(context: BusContext) {
    this.#context = context;
    this.#options = context.options ?? {};
    this.#channels = new ChannelSet(context.memory, context.vpCount, this.#outbox);
    this.#requests = new GuestRequests(this.#channels, this.#outbox);
    this.#setConnections();
  }

  get state(): BusState {
    return this.#state;
  }

  /** While a guest is connected. */
  get connection(): ConnectionInfo | undefined {
    return this.#channels.connection;
  }

  get channels(): ChannelSummary[] {
    return this.#channels.list();
  }

  /** Takes the effects of everything so far. */
  take(): ServerEffect[] {
    return this.#outbox.take();
  }

  /** Offers a device. Throws if its instance is offered already. */
  offer(offer: DeviceOffer): void {
    this.#channels.add(offer);
  }

  /** Rescinds a device with its sub-channels. @returns False if there is none. */
  rescind(instanceId: Guid): boolean {
    return this.#channels.revokeDevice(instanceId);
  }

  /**
   * Rescinds a sub-channel.
   *
   * @returns What `offerSubChannel` takes to offer it again; undefined if there is none that can be rescinded.
   */
  rescindSubChannel(key: number): SubChannelName | undefined {
    const channel = this.#channels.byKey(key);
    if (channel === undefined || !this.#channels.revokeSubChannel(channel)) return undefined;
    return { instanceId: channel.offer.instanceId, index: channel.subChannelIndex };
  }

  /** Offers a sub-channel again, if its device is still in use. */
  offerSubChannel({ instanceId, index }: SubChannelName): void {
    this.#channels.offerSubChannel(instanceId, index);
  }

  /** Takes everything back from the guest, as for a restart of its machine; ends with "reset-complete". */
  reset(): void {
    this.#outbox.discard();
    this.#disconnect({ kind: "reset" });
  }

  /**
   * The bus when nothing is in progress on it; undefined while something is.
   *
   * @param services - what the workers say of the open channels, by key.
   */
  save(services: ReadonlyMap<number, SavedWorkerChannel>): SavedBus | undefined {
    const isAtRest =
      this.#state !== "disconnecting" && this.#outbox.isEmpty && !this.#outbox.isPaused;
    const channels = isAtRest ? this.#channels.save(services) : undefined;
    if (channels === undefined) return undefined;
    const { connection, areOffered } = this.#channels;
    return { connection, areOffered, target: this.#outbox.target, channels };
  }

  /**
   * Goes on from what was saved, before any guest was there. Devices that are offered and that the guest
   * does not know yet follow by `offerNew`.
   *
   * @returns The channels, each with its new key.
   */
  restore({ connection, areOffered, target, channels }: SavedBus): RestoredChannel[] {
    const restored = this.#channels.restore(channels);
    this.#state = connection === undefined ? "disconnected" : "connected";
    this.#channels.connection = connection;
    this.#channels.areOffered = areOffered;
    this.#outbox.target = target;
    // The versions are this host's, whatever the saved one spoke.
    this.#setConnections(connection?.messageConnectionId);
    return restored;
  }

  /** Tells a guest that has asked for offers of those that it was not told of. */
  offerNew(): void {
    if (this.#channels.areOffered) this.#channels.offerAll();
  }

  /** A message from the guest. */
  message({ connectionId, payload }: GuestMessage): void {
    const outcome = parseHeader(payload, "guest-to-host", this.connection);
    switch (outcome.kind) {
      case "unknown-type":
        this.#violation("message-unknown-type", `type ${outcome.type}`);
        return;
      case "wrong-direction":
      case "not-negotiated":
        this.#violation(`message-${outcome.kind}`, `${outcome.message.name} ${this.#where()}`);
        return;
      case "too-short": {
        const name = outcome.message?.name ?? "a message";
        const detail = `${name} of ${payload.byteLength} bytes, ${outcome.size} at least`;
        this.#violation("message-too-short", detail);
        return;
      }
      case "ok":
        this.#dispatch(outcome.type, payload, connectionId);
    }
  }

  /** What a worker says about one of its channels. Replies about channels that are gone are ignored. */
  reply(reply: BusReply): void {
    const channel = this.#channels.byKey(reply.key);
    if (channel === undefined) return;
    switch (reply.kind) {
      case "opened":
        channel.status = reply.status;
        this.#channels.workerStep(channel, reply.kind);
        break;
      case "closed":
      case "revoked":
        this.#channels.workerStep(channel, reply.kind);
        break;
      case "modified":
        this.#requests.modified(channel, reply.status);
        break;
      case "gpadl-created":
        this.#requests.gpadlCreated(channel, reply.gpadlId, reply.status);
        break;
      case "gpadl-torndown":
        this.#requests.gpadlTorndown(channel, reply.gpadlId);
        break;
      case "offer-sub-channels":
        this.#channels.offerSubChannels(channel, reply.count, reply.repeated);
        break;
      case "violation":
        this.#violation(reply.rule, reply.detail, channel.relid);
    }
    this.#advance();
  }

  #dispatch(type: MessageType, payload: Uint8Array, connectionId: number): void {
    const isContact = type === MessageType.initiateContact;
    if (this.#outbox.isPaused) {
      if (!isContact && type !== MessageType.resume && type !== MessageType.unload) {
        this.#violation("message-while-paused", `${nameOf(type)} before RESUME`);
        return;
      }
      this.#outbox.resume();
    }
    const { connection } = this;
    const expected = connection?.messageConnectionId;
    if (!isContact && expected !== undefined && connectionId !== expected)
      this.#violation("message-connection", `${nameOf(type)} on connection ${connectionId}`);
    if (this.#requests.handle(type, payload, connection?.features ?? 0)) {
      this.#advance();
      return;
    }
    switch (type) {
      case MessageType.initiateContact:
        this.#contact(payload, connectionId);
        return;
      case MessageType.unload:
        if (connection !== undefined) this.#disconnect({ kind: "unloaded", info: connection });
        return;
      case MessageType.requestOffers:
        this.#requestOffers();
        return;
      case MessageType.modifyConnection:
        this.#modifyConnection(ModifyConnection.parse(payload));
        return;
      case MessageType.tlConnectRequest:
        this.#refuseTransport(payload);
        return;
      case MessageType.pause:
        this.#outbox.send(PauseResponse.emit({}));
        this.#outbox.pause();
        return;
      default:
      // Only RESUME is left, and to have received it is all that it takes.
    }
  }

  #contact(payload: Uint8Array, connectionId: number): void {
    const message = InitiateContact.parse(payload);
    if (message === undefined) {
      this.#violation("message-too-short", "INITIATE_CONTACT lacks the client id it announces");
      return;
    }
    const contact = { message, isMulticlient: connectionId === ConnectionId.multiclientMessage };
    if (isMisdirected(contact)) {
      const detail = `there is no bus at SINT ${message.sint}, trust level ${message.vtl}`;
      this.#violation("contact-target", detail);
      this.#outbox.send(unsupportedResponse(message.version), contactTarget(contact));
      return;
    }
    this.#disconnect({ kind: "contact", contact });
  }

  /** Ends the connection, if there is one; `sequel` follows when nothing of it is in use any more. */
  #disconnect(sequel: Sequel): void {
    const isReset = this.#sequel?.kind === "reset" || sequel.kind === "reset";
    // A reset that is under way is not undone by what the guest may still have said.
    this.#sequel = this.#sequel?.kind === "reset" ? this.#sequel : sequel;
    if (this.#state === "connected" || isReset) {
      this.#state = "disconnecting";
      this.#channels.disconnect(isReset);
    } else this.#state = "disconnecting";
    this.#advance();
  }

  /** Goes on once everything that a connection held is released. */
  #advance(): void {
    const sequel = this.#sequel;
    if (sequel === undefined || !this.#channels.isReset(sequel.kind === "reset")) return;
    this.#sequel = undefined;
    this.#state = "disconnected";
    this.#outbox.push({ kind: "signal-pages", sendHalf: undefined, monitorPage: undefined });
    this.#setConnections();
    switch (sequel.kind) {
      case "unloaded":
        if (sequel.info.version >= UNLOAD_ANSWERED_SINCE)
          this.#outbox.send(UnloadResponse.emit({}));
        return;
      case "contact":
        this.#connect(sequel.contact);
        return;
      case "reset":
        this.#outbox.push({ kind: "reset-complete" });
    }
  }

  #connect(contact: Contact): void {
    const { memory, vpCount, isVersionRefused } = this.#context;
    const outcome = negotiate(
      contact,
      { options: this.#options, memory, vpCount },
      (version) => isVersionRefused?.(version) === true,
    );
    if (outcome.violation !== undefined)
      this.#violation(outcome.violation.rule, outcome.violation.detail);
    if (outcome.kind === "accepted") {
      const { info } = outcome;
      this.#state = "connected";
      this.#channels.connection = info;
      this.#outbox.target = outcome.target;
      this.#outbox.push({
        kind: "signal-pages",
        sendHalf: sendHalfOf(info),
        monitorPage: info.monitorPages?.childToParent,
      });
      this.#setConnections(info.messageConnectionId);
    }
    this.#outbox.send(outcome.response, outcome.target);
  }

  #requestOffers(): void {
    if (this.#channels.areOffered) {
      this.#violation("request-offers-twice", "REQUESTOFFERS is for once per connection");
      return;
    }
    this.#channels.offerAll();
    this.#outbox.send(AllOffersDelivered.emit({}));
  }

  #modifyConnection(message: ModifyConnection | undefined): void {
    const { connection } = this;
    if (message === undefined || connection === undefined) return;
    const pages = monitorPagesOf(
      message.parentToChildMonitorGpa,
      message.childToParentMonitorGpa,
      this.#context.memory,
    );
    const broken =
      pages === "invalid"
        ? "both monitor pages or neither, in guest memory"
        : connection.hasHostPages
          ? "the monitor pages are the host's"
          : this.#channels.isMonitoring()
            ? "a channel with a monitor is open"
            : undefined;
    if (broken !== undefined || pages === "invalid") {
      this.#violation("modify-connection", broken ?? "");
    } else {
      this.#channels.connection = { ...connection, monitorPages: pages };
      this.#outbox.push({
        kind: "signal-pages",
        sendHalf: sendHalfOf(connection),
        monitorPage: pages?.childToParent,
      });
    }
    const connectionState =
      broken === undefined ? ConnectionState.ok : ConnectionState.unknownFailure;
    this.#outbox.send(ModifyConnectionResponse.emit({ connectionState }));
  }

  /** There are no sockets to the host here. */
  #refuseTransport(payload: Uint8Array): void {
    const version = this.connection?.version ?? 0;
    const request = TlConnectRequest.parse(payload, version);
    if (request === undefined || version < TL_CONNECT_RESULT_SINCE) return;
    const { endpointId, serviceId } = request;
    const status = NtStatus.connectionRefused;
    this.#outbox.send(TlConnectResult.emit({ endpointId, serviceId, status }));
  }

  /** Makes the connections known on which messages may be posted. @param named - by VERSION_RESPONSE. */
  #setConnections(named?: number): void {
    const versions = this.#options.versions ?? negotiationOrder(ProtocolVersion.v6_0);
    const ids = new Set<number>([ConnectionId.message]);
    if (versions.some((version) => versionHas(version, "namedMessageConnection")))
      ids.add(ConnectionId.multiclientMessage);
    if (named !== undefined) ids.add(named);
    this.#outbox.push({ kind: "message-connections", ids: Array.from(ids) });
  }

  #where(): string {
    const { connection } = this;
    return connection === undefined
      ? `while ${this.#state}`
      : `in version ${formatVersion(connection.version)}`;
  }

  #violation(rule: string, detail: string, relid?: number): void {
    this.#outbox.violation(rule, detail, relid);
  }
}

const UNLOAD_ANSWERED_SINCE = ProtocolVersion.v1_1;
const TL_CONNECT_RESULT_SINCE = ProtocolVersion.v4_1;
