import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  CloseReservedResponse,
  GpadlCreated,
  GpadlTorndown,
  NtStatus,
  OpenChannelResult,
  RescindChannelOffer,
  isNtSuccess,
  versionHas,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import {
  ServerChannel,
  channelStep,
  offerMessage,
  type ChannelAction,
  type ChannelInput,
  type ChannelSummary,
  type OpenRequest,
} from "./channel.js";
import { prepareOpening, type OpeningOutcome } from "./channel-opening.js";
import type { ConnectionInfo } from "./connection.js";
import type { MessageTarget, Outbox } from "./effects.js";
import { GpadlTable, type Gpadl } from "./gpadl.js";
import { SavedPartitionError, type SavedChannel } from "../saved-partition.js";
import type { SavedWorkerChannel } from "../worker-channel.js";
import { compareOffers, type DeviceOffer } from "./offers.js";
import { Relids } from "./relids.js";
import { restoreChannel, saveChannel, type RestoredChannel } from "./saved-channel.js";

/**
 * All channels of the host: carries out what the table in `channel.ts` says, and keeps what hangs on a
 * channel (relid, ports, GPADLs) in step with it.
 */
export class ChannelSet {
  readonly gpadls: GpadlTable;
  readonly vpCount: number;
  /** While a guest is connected. */
  connection: ConnectionInfo | undefined;
  /** True once the connection's first offers are made: later ones go out at once. */
  areOffered = false;
  readonly #outbox: Outbox;
  readonly #channels = new Map<number, ServerChannel>();
  readonly #relids: Relids;
  #nextKey = 1;

  constructor(memory: GuestMemory, vpCount: number, outbox: Outbox) {
    this.gpadls = new GpadlTable(memory);
    this.vpCount = vpCount;
    this.#outbox = outbox;
    this.#relids = new Relids(outbox);
  }

  /** The channel that the guest knows by this relid. */
  byRelid(relid: number): ServerChannel | undefined {
    return this.#relids.find(relid);
  }

  /** The channel with this key. */
  byKey(key: number): ServerChannel | undefined {
    return this.#channels.get(key);
  }

  /** All channels, in no order. */
  list(): ChannelSummary[] {
    return Array.from(this.#channels.values(), (channel) => channel.summary());
  }

  /** Offers a device, now or when the guest asks for offers. Throws if it is offered already. */
  add(offer: DeviceOffer): void {
    const channel = this.#channelOf(offer.instanceId, 0);
    if (channel === undefined) this.#insert(offer, 0);
    else if (!channel.isDoomed) throw new Error(`device ${offer.instanceId} is offered already`);
    else this.#succeed(channel, offer);
  }

  /** Takes a device away: its sub-channels, then the primary. False if there is none. */
  revokeDevice(instanceId: Guid): boolean {
    const primary = this.#channelOf(instanceId, 0);
    if (primary === undefined || (primary.isDoomed && primary.successor === undefined))
      return false;
    this.#revokeSubChannels(primary);
    this.#revoke(primary);
    return true;
  }

  /** Makes the connection's first offers. */
  offerAll(): void {
    this.areOffered = true;
    const waiting = Array.from(this.#channels.values()).filter(
      (channel) => channel.state === "client-released" && channel.isPrimary,
    );
    for (const channel of waiting.sort((a, b) => compareOffers(a.offer, b.offer)))
      this.#offer(channel);
  }

  /**
   * Has sub-channels 1 to `count` offered, as far as they are not.
   *
   * @param repeated - A fault: those that are offered and not open are offered once more.
   */
  offerSubChannels(primary: ServerChannel, count: number, repeated = false): void {
    for (let index = 1; index <= count; index++) {
      this.#offerSubChannel(primary, index);
      const channel = this.#channelOf(primary.offer.instanceId, index);
      if (repeated && channel?.state === "closed") this.#outbox.send(offerMessage(channel));
    }
  }

  /** Has one sub-channel of a device offered, if it is not. */
  offerSubChannel(instanceId: Guid, index: number): void {
    const primary = this.#channelOf(instanceId, 0);
    if (primary !== undefined) this.#offerSubChannel(primary, index);
  }

  /** Takes a sub-channel away. False if it is none, or is going already. */
  revokeSubChannel(channel: ServerChannel): boolean {
    if (channel.isPrimary || channel.isDoomed) return false;
    this.#revoke(channel);
    return true;
  }

  /** Releases every channel on behalf of a guest that has left. @param all - reserved channels, too. */
  disconnect(all: boolean): void {
    this.connection = undefined;
    this.areOffered = false;
    for (const channel of this.#subChannelsFirst()) {
      if (!channel.isReserved || all) this.#leave(channel);
    }
  }

  /** Releases a channel whose guest has left; its sub-channels are for the next guest to ask for again. */
  #leave(channel: ServerChannel): void {
    if (!channel.isPrimary) this.#doom(channel);
    this.step(channel, "disconnect");
  }

  /**
   * The channels that the guest knows, when nothing is in progress on any.
   *
   * @param services - what the workers say of the open ones, by key.
   * @returns Undefined while something is in progress.
   */
  save(services: ReadonlyMap<number, SavedWorkerChannel>): SavedChannel[] | undefined {
    const saved: SavedChannel[] = [];
    for (const channel of this.#channels.values()) {
      if (channel.isDoomed || channel.successor !== undefined) return undefined;
      if (channel.state === "client-released" && !this.gpadls.has(channel.key)) continue;
      const gpadls = this.gpadls.of(channel.key);
      const one = saveChannel(channel, gpadls, services.get(channel.key));
      if (one === undefined) return undefined;
      saved.push(one);
    }
    return saved;
  }

  /**
   * Goes on with channels that were saved. Their devices are offered, and no guest is connected.
   * Throws `SavedPartitionError` if one is not.
   *
   * @returns The channels, each with its new key.
   */
  restore(saved: readonly SavedChannel[]): RestoredChannel[] {
    return saved.map((one) => {
      const channel = this.#channelToRestore(one);
      restoreChannel(channel, one);
      this.#relids.restore(channel);
      for (const gpadl of one.gpadls) this.gpadls.restore(channel.key, gpadl);
      return { key: channel.key, worker: channel.offer.worker, saved: one };
    });
  }

  #channelToRestore({ instanceId, subChannelIndex }: SavedChannel): ServerChannel {
    const primary = this.#channelOf(instanceId, 0);
    if (primary === undefined)
      throw new SavedPartitionError(`its guest knows device ${instanceId}, which is not offered`);
    if (subChannelIndex === 0) return primary;
    const channel = new ServerChannel(this.#nextKey++, primary.offer, subChannelIndex);
    this.#channels.set(channel.key, channel);
    return channel;
  }

  /** True if the guest signals an open channel by a monitor page. */
  isMonitoring(): boolean {
    return Array.from(this.#channels.values()).some(
      ({ monitorId, hasInterrupts }) => monitorId !== undefined && hasInterrupts,
    );
  }

  /** True if the guest has no hold on any channel or GPADL, reserved ones aside unless `all`. */
  isReset(all: boolean): boolean {
    for (const channel of this.#channels.values()) {
      if (channel.isReserved && !all) continue;
      if (channel.state !== "client-released" || this.gpadls.has(channel.key)) return false;
    }
    return true;
  }

  /** Does what the table says. @returns False if the input is an error in the channel's state. */
  step(channel: ServerChannel, input: ChannelInput): boolean {
    const step = channelStep(channel.state, input);
    if (step === "error") return false;
    if (step === "ignore") return true;
    channel.state = step.to;
    for (const action of step.actions) this.#act(channel, action);
    return true;
  }

  /** OPENCHANNEL or OPEN_RESERVED_CHANNEL. @returns False if it is an error in the channel's state. */
  open(channel: ServerChannel, request: OpenRequest): boolean {
    const input = request.reserved === undefined ? "open" : "open-reserved";
    const step = channelStep(channel.state, input);
    if (step === "error") return false;
    if (step === "ignore") return true;
    if (step.to === "closing-reopen") {
      channel.reopen = request;
      return this.step(channel, input);
    }
    const prepared = this.#prepare(channel, request);
    if (prepared.kind === "fault") {
      this.#outbox.violation(prepared.rule, prepared.detail, channel.relid);
      this.#sendOpenResult(channel, request, NtStatus.unsuccessful);
      return true;
    }
    channel.open = request;
    channel.opening = prepared.opening;
    channel.ownConnectionId = prepared.ownConnectionId;
    return this.step(channel, input);
  }

  /** What a worker says of opening and closing. */
  workerStep(channel: ServerChannel, input: "opened" | "closed" | "revoked"): void {
    if (input === "revoked") channel.isRevoking = false;
    else if (channel.isRevoking) return;
    const failed = input === "opened" && !isNtSuccess(channel.status);
    this.step(channel, failed ? "open-failed" : input);
    // A reserved channel that outlived its connection is released by its own end.
    if (this.connection === undefined && !channel.isReserved && !channel.isReleased)
      this.#leave(channel);
    const { successor } = channel;
    if (channel.state !== "revoked" || successor === undefined) return;
    channel.successor = undefined;
    this.#succeed(channel, successor);
  }

  /** Answers GPADL_CREATED. */
  sendGpadlCreated(relid: number, gpadlId: number, status: NtStatus): void {
    this.#outbox.send(GpadlCreated.emit({ relid, gpadlId, status }));
  }

  /** Forgets a GPADL that the worker does not have any more. */
  removeGpadl(gpadl: Gpadl): void {
    this.gpadls.remove(gpadl);
    const channel = this.byKey(gpadl.key);
    if (channel?.state === "client-released") this.#settle(channel);
  }

  /** Answers GPADL_TEARDOWN, if the guest still waits for that, and forgets the GPADL. */
  finishTeardown(gpadl: Gpadl): void {
    const isAwaited = this.byKey(gpadl.key)?.isReleased === false;
    this.removeGpadl(gpadl);
    if (isAwaited) this.#outbox.send(GpadlTorndown.emit({ gpadlId: gpadl.id }));
  }

  /** Asks the worker to let go of a GPADL. */
  requestTeardown(channel: ServerChannel, gpadl: Gpadl): void {
    gpadl.state = "tearing-down";
    this.#outbox.request(channel.offer.worker, {
      kind: "gpadl-teardown",
      key: channel.key,
      gpadlId: gpadl.id,
    });
  }

  #act(channel: ServerChannel, action: ChannelAction): void {
    const { key, open } = channel;
    const relid = channel.relid ?? 0;
    const { worker } = channel.offer;
    switch (action) {
      case "send-offer":
        this.#outbox.send(offerMessage(channel));
        return;
      case "request-open":
        this.#requestOpen(channel);
        return;
      case "request-close":
        this.#outbox.request(worker, { kind: "close", key });
        return;
      case "request-revoke":
        channel.isRevoking = true;
        this.#outbox.request(worker, { kind: "revoke", key });
        return;
      case "send-open-result":
        if (open !== undefined) this.#sendOpenResult(channel, open, channel.status);
        return;
      case "reopen":
        this.#reopen(channel);
        return;
      case "answer-close-reserved":
        if (open?.reserved !== undefined)
          this.#outbox.send(CloseReservedResponse.emit({ relid }), open.reserved);
        return;
      case "forget-open":
        this.#forgetOpen(channel);
        return;
      case "send-rescind":
        if (this.connection !== undefined) this.#outbox.send(RescindChannelOffer.emit({ relid }));
        return;
      case "rescind-sub-channels":
        if (channel.isPrimary) this.#revokeSubChannels(channel);
        return;
      case "release-gpadls":
        for (const gpadl of this.gpadls.of(key)) this.#releaseGpadl(channel, gpadl);
        return;
      case "drop-gpadls":
        for (const gpadl of this.gpadls.of(key)) this.gpadls.remove(gpadl);
        this.#outbox.request(worker, { kind: "guest-released", key });
        return;
      case "finish-gpadls":
        for (const gpadl of this.gpadls.of(key)) this.#finishGpadl(relid, gpadl);
        return;
      case "free-relid":
        this.#forgetOpen(channel);
        this.#relids.free(channel);
        return;
      case "settle":
        this.#settle(channel);
    }
  }

  #channelOf(instanceId: Guid, subChannelIndex: number): ServerChannel | undefined {
    for (const channel of this.#channels.values())
      if (channel.offer.instanceId === instanceId && channel.subChannelIndex === subChannelIndex)
        return channel;
    return undefined;
  }

  #subChannelsFirst(): ServerChannel[] {
    return Array.from(this.#channels.values()).sort(
      (a, b) => b.subChannelIndex - a.subChannelIndex,
    );
  }

  #offerSubChannel(primary: ServerChannel, index: number): void {
    const { connection } = this;
    if (connection === undefined || !versionHas(connection.version, "subChannels")) return;
    if (primary.state !== "open" || !primary.isPrimary) return;
    const channel = this.#channelOf(primary.offer.instanceId, index);
    if (channel === undefined) this.#insert(primary.offer, index);
    else if (channel.isDoomed) this.#succeed(channel, primary.offer);
    else if (channel.state === "client-released") this.#offer(channel);
  }

  #insert(offer: DeviceOffer, subChannelIndex: number): void {
    const channel = new ServerChannel(this.#nextKey++, offer, subChannelIndex);
    this.#channels.set(channel.key, channel);
    if (this.areOffered) this.#offer(channel);
  }

  /** Puts a device in the place of one that is gone, as soon as guest and worker have let go of that. */
  #succeed(channel: ServerChannel, offer: DeviceOffer): void {
    if (channel.state !== "revoked") {
      channel.successor = offer;
      return;
    }
    this.#relids.disconnectPorts(channel);
    channel.offer = offer;
    channel.isDoomed = false;
    this.step(channel, "reoffer");
    this.#relids.connectPorts(channel);
  }

  #doom(channel: ServerChannel): void {
    channel.isDoomed = true;
    channel.successor = undefined;
  }

  #revoke(channel: ServerChannel): void {
    this.#doom(channel);
    this.step(channel, "revoke");
  }

  #revokeSubChannels(primary: ServerChannel): void {
    for (const channel of this.#subChannelsFirst())
      if (!channel.isPrimary && channel.offer.instanceId === primary.offer.instanceId)
        this.#revoke(channel);
  }

  /** Gives a channel a relid and offers it; without a free relid the guest does not see it. */
  #offer(channel: ServerChannel): void {
    const { connection } = this;
    if (connection === undefined || !this.#relids.assign(channel, connection)) return;
    this.step(channel, "offer");
  }

  #prepare(channel: ServerChannel, request: OpenRequest): OpeningOutcome {
    const { connection } = this;
    if (connection === undefined || channel.relid === undefined)
      throw new Error("a channel is opened by a guest that is connected and knows it");
    return prepareOpening(channel, channel.relid, request, {
      connection,
      vpCount: this.vpCount,
      ringGpadl: this.gpadls.find(channel.key, request.ringGpadlId),
      isConnectionTaken: (id) => this.#relids.isConnectionTaken(id),
    });
  }

  #requestOpen(channel: ServerChannel): void {
    const { opening } = channel;
    if (opening === undefined) throw new Error("an opening is checked before it is requested");
    this.#relids.connectOwnPort(channel);
    this.#outbox.request(channel.offer.worker, { kind: "open", opening });
  }

  /** The channel is closed: now the request that came meanwhile counts, as if it came just now. */
  #reopen(channel: ServerChannel): void {
    const { reopen } = channel;
    this.#forgetOpen(channel);
    if (reopen !== undefined) this.open(channel, reopen);
  }

  #sendOpenResult({ relid = 0 }: ServerChannel, request: OpenRequest, status: NtStatus): void {
    const target: MessageTarget | undefined = request.reserved;
    this.#outbox.send(OpenChannelResult.emit({ relid, openId: request.openId, status }), target);
  }

  #forgetOpen(channel: ServerChannel): void {
    this.#relids.disconnectOwnPort(channel);
    channel.forgetOpening();
  }

  /** Forgets a channel whose device is gone, once guest and worker have both let go. */
  #settle(channel: ServerChannel): void {
    if (!channel.isDoomed || this.gpadls.has(channel.key)) return;
    const { successor } = channel;
    channel.successor = undefined;
    this.#channels.delete(channel.key);
    if (successor !== undefined) this.#insert(successor, channel.subChannelIndex);
  }

  #releaseGpadl(channel: ServerChannel, gpadl: Gpadl): void {
    switch (gpadl.state) {
      case "in-progress":
        this.gpadls.remove(gpadl);
        return;
      case "offered":
        gpadl.state = "offered-tearing-down";
        return;
      case "accepted":
        this.requestTeardown(channel, gpadl);
        return;
      case "offered-tearing-down":
      case "tearing-down":
    }
  }

  /** Ends what the guest still waits for when a device goes away. */
  #finishGpadl(relid: number, gpadl: Gpadl): void {
    if (gpadl.state === "offered") {
      this.gpadls.remove(gpadl);
      this.sendGpadlCreated(relid, gpadl.id, NtStatus.unsuccessful);
    } else if (gpadl.state === "tearing-down") this.finishTeardown(gpadl);
  }
}
