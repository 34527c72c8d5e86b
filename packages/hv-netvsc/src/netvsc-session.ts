import type { ChannelClosedReason, Gpadl, Timer } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { Attachment } from "./attachment.js";
import type { AttachmentEffect, AttachmentInput, AttachmentOptions } from "./attachment-io.js";
import type { ControlQueue } from "./control-queue.js";
import { NetvscError } from "./errors.js";
import { spread, switchCoalescing } from "./host-settings.js";
import type { Link } from "./link-monitor.js";
import { LinkWatch } from "./link-watch.js";
import { NetvscChannel } from "./netvsc-channel.js";
import type { NetvscContext } from "./netvsc-context.js";
import type { NetvscQueue } from "./netvsc-queue.js";
import type { NetvscParameters, SharedBuffer } from "./parameters.js";
import {
  NvspHeader,
  NvspRevokeReceiveBuffer,
  NvspRevokeSendBuffer,
  NvspSendVfAssociation,
  NvspType,
  Oid,
  PacketFilter,
  parseSendTable,
  RECEIVE_BUFFER_ID,
  SEND_BUFFER_ID,
} from "./protocol/index.js";
import type { QueueTuning, ReceiveSide } from "./queue-description.js";
import { RndisConversation } from "./rndis-conversation.js";
import type { ScalingChoice } from "./scaling.js";
import { SubChannels, type SubChannelOffers } from "./sub-channels.js";
import { transmitSideOf } from "./transmit-side.js";

/** How an interface is attached, once. */
export interface SessionOptions {
  readonly attachment: AttachmentOptions;
  readonly ringPages: number;
  readonly tuning: QueueTuning;
  /** How long the host may take for an answer. */
  readonly answerTimeoutMs: number;
  /** How long to wait for sub-channels that the host has promised, or that it is to take back. */
  readonly subChannelTimeoutMs: number;
  /** Time that a host gets for what it does not confirm. */
  readonly settleMs: number;
  /** How long detaching waits for sends that are under way. */
  readonly drainTimeoutMs: number;
  /** How often to ask the host whether it is there; 0: never. */
  readonly keepaliveIntervalMs: number;
}

/** What an interface hears of its session. */
export interface SessionEvents {
  linkChanged(link: Link): void;
  /** The primary channel is no more, and nobody has asked for that. */
  lost(error: NetvscError): void;
}

/** How often to look whether the host has read what it does not confirm. */
const READ_LOOK_MS = 1;
/** The boot processor: the primary channel is bound to it, so that the control half can call its queue. */
const BOOT_CPU = 0;
const CLOSED = new NetvscError("ERR_CLOSED", "the interface is detached");

/**
 * One attach of an interface, from the opening of its channel to the last memory that it shared. An MTU change
 * ends it, and begins another.
 */
export class NetvscSession {
  readonly conversation: RndisConversation;
  /** NVSP messages that the host sent unasked, by what they were. */
  readonly notices = { sendTables: 0, vfAssociations: 0, others: 0 };
  readonly #context: NetvscContext;
  readonly #options: SessionOptions;
  readonly #events: SessionEvents;
  readonly #primary: NetvscChannel;
  readonly #queue: NetvscQueue;
  readonly #control: ControlQueue;
  readonly #offers: SubChannelOffers;
  readonly #subChannels: SubChannels;
  readonly #gpadls = new Set<Gpadl>();
  /** Memory that is being shared. */
  readonly #sharing = new Set<Promise<unknown>>();
  /** Resolves when there is nobody to talk to any more. */
  readonly #gone: Promise<void>;
  #goneReason: ChannelClosedReason | undefined;
  /** Channels that share the send buffer. */
  #channelCount = 1;
  #parameters: NetvscParameters | undefined;
  #link: LinkWatch | undefined;
  #keepaliveTimer: Timer | undefined;
  #sendTable: readonly number[] | undefined;
  #scalingChoice: ScalingChoice;
  #closing: Promise<void> | undefined;

  private constructor(
    context: NetvscContext,
    offers: SubChannelOffers,
    options: SessionOptions,
    events: SessionEvents,
    primary: NetvscChannel,
  ) {
    const { local } = primary.handle;
    if (local?.port.controlQueue === undefined)
      throw new Error("the primary channel is on another CPU");
    this.#context = context;
    this.#options = options;
    this.#scalingChoice = options.attachment.scaling ?? {};
    this.#events = events;
    this.#primary = primary;
    this.#offers = offers;
    this.#queue = local.port;
    this.#control = local.port.controlQueue;
    this.#subChannels = new SubChannels(context, offers, primary.cpu, () => this.#rescale());
    this.conversation = new RndisConversation(context.timers, options.answerTimeoutMs, {
      send: (message, taken) => {
        const sent = this.#control.message(message, taken);
        this.#queue.flush();
        return sent;
      },
      // Before there is an interface, its link will be asked for anyway.
      indicated: ({ status }) => this.#link?.indicated(status),
    });
    this.#queue.control = {
      message: (range) => this.conversation.receive(range),
      notice: (message) => this.#notice(message),
    };
    void context.device.rescinded.then(() => this.#queue.stop("rescinded"));
    this.#gone = primary.closed.then((reason) => this.#ended(reason));
  }

  /** Attaches. Rejects when a step that cannot be done without fails; everything is taken back then. */
  static async open(
    context: NetvscContext,
    offers: SubChannelOffers,
    options: SessionOptions,
    events: SessionEvents,
  ): Promise<NetvscSession> {
    const { ringPages, tuning } = options;
    const { device } = context;
    const primary = await NetvscChannel.open(context, device, BOOT_CPU, ringPages, tuning);
    const session = new NetvscSession(context, offers, options, events, primary);
    try {
      await session.#attach();
      return session;
    } catch (error) {
      await session.close();
      throw error;
    }
  }

  get parameters(): NetvscParameters {
    return this.#parameters!;
  }

  get link(): Link {
    return this.#link?.link ?? { up: false, speed: 0 };
  }

  /** The open channels, the primary first. */
  get channels(): readonly NetvscChannel[] {
    return [this.#primary, ...this.#subChannels.list];
  }

  /** The primary channel as code on the boot processor uses it. */
  get port(): NetvscQueue {
    return this.#queue;
  }

  /** The host's send indirection table, if it has sent one. */
  get sendTable(): readonly number[] | undefined {
    return this.#sendTable;
  }

  /** `PacketFilter` bits. Rejects as `RndisConversation.set` does. */
  setFilter(filter: number): Promise<void> {
    return this.conversation.set(Oid.genCurrentPacketFilter, emit32(filter));
  }

  /** Has received segments coalesced, or not. Rejects as `switchCoalescing` does. */
  async setCoalescing(on: boolean): Promise<void> {
    const offloads = await switchCoalescing(this.conversation, this.parameters, on);
    this.#parameters = { ...this.parameters, offloads };
  }

  /** Has frames spread over the channels that are open. Rejects as `RndisConversation.set` does. */
  async spread(choice: ScalingChoice): Promise<void> {
    const { scaling } = this.#parameters ?? {};
    if (scaling !== undefined) {
      const indices = this.channels.map(({ index }) => index);
      await spread(this.conversation, scaling, indices, choice);
    }
    this.#scalingChoice = choice;
  }

  /**
   * Ends the session: reception off, what is under way let finish, buffers revoked, channels closed. With a host
   * that is gone, or silent, it ends as well. Never rejects; memory that the host may still use is leaked. Idempotent.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Carries the effects of the dialogue out: one answer at a time, and one timer. */
  #attach(): Promise<void> {
    const { timers, device } = this.#context;
    const machine = new Attachment(this.#options.attachment);
    return new Promise((resolve, reject) => {
      let timer = timers.after(0, () => undefined);
      const feed = (input: AttachmentInput): void => {
        for (const effect of machine.step(input, timers.now())) {
          if (effect.kind === "failed") reject(effect.error);
          else if (effect.kind === "ready")
            // What has no room for its buffers rejects.
            void Promise.resolve(effect.parameters)
              .then((parameters) => this.#begin(parameters))
              .then(resolve, reject);
          else this.#carryOut(effect, feed);
        }
        timer.cancel();
        if (machine.deadline !== Infinity)
          timer = timers.after(machine.deadline - timers.now(), () => feed({ kind: "tick" }));
      };
      void this.#gone.then(() =>
        feed({ kind: this.#goneReason === "rescinded" ? "rescinded" : "closed" }),
      );
      void device.rescinded.then(() => feed({ kind: "rescinded" }));
      feed({ kind: "opened" });
    });
  }

  #carryOut(effect: AttachmentEffect, feed: (input: AttachmentInput) => void): void {
    switch (effect.kind) {
      case "send":
        // On a closed channel the end of it is what is heard next.
        if (effect.awaited)
          this.#control.request(effect.packet, (packet) => feed({ kind: "completion", packet }));
        else this.#control.notice(effect.packet);
        this.#queue.flush();
        break;
      case "share":
        void this.#share(effect.lengthBytes).then(feed);
        break;
      case "receive":
        this.#queue.configureReceive(receiveSide(effect.buffer));
        break;
      case "ask":
        this.conversation.ask(effect.question).then(
          (answer) => feed({ kind: "answer", answer }),
          (error: unknown) => feed({ kind: "denied", error: error as Error }),
        );
        break;
      case "open-channels":
        void this.#openChannels(effect.count, effect.parameters).then((indices) =>
          feed({ kind: "channels", indices }),
        );
        break;
      default:
        break;
    }
  }

  async #share(lengthBytes: number): Promise<AttachmentInput> {
    const sharing = this.#context.device.createGpadl(lengthBytes / PAGE_SIZE);
    this.#sharing.add(sharing);
    try {
      const gpadl = await sharing;
      this.#gpadls.add(gpadl);
      const buffer: SharedBuffer = { ...gpadl, lengthBytes };
      return { kind: "shared", buffer };
    } catch (error) {
      return { kind: "denied", error: error as Error };
    } finally {
      this.#sharing.delete(sharing);
    }
  }

  async #openChannels(count: number, parameters: NetvscParameters): Promise<readonly number[]> {
    const { subChannelTimeoutMs: timeoutMs, ringPages, tuning } = this.#options;
    this.#channelCount = 1 + count;
    await this.#subChannels.open(count, {
      timeoutMs,
      ringPages,
      tuning,
      agreed: (index) => ({
        receive: receiveSide(parameters.receiveBuffer),
        transmit: transmitSideOf(parameters, index, this.#channelCount),
      }),
    });
    return this.#subChannels.list.map(({ index }) => index);
  }

  /** Everything is agreed. */
  #begin(parameters: NetvscParameters): void {
    this.#parameters = parameters;
    this.#queue.configureTransmit(transmitSideOf(parameters, 0, this.#channelCount));
    this.#link = new LinkWatch(
      this.#context.timers,
      this.conversation,
      { up: parameters.linkUp, speed: parameters.linkSpeed },
      (link) => this.#events.linkChanged(link),
    );
    this.#armKeepalive();
  }

  #notice(message: Uint8Array): void {
    const type = NvspHeader.parse(message)?.type;
    if (type === NvspType.sendIndirectionTable) {
      const table = parseSendTable(message, this.#parameters?.version ?? 0);
      if (table === undefined) this.notices.others++;
      else {
        this.notices.sendTables++;
        this.#sendTable = table;
      }
    } else if (type === NvspSendVfAssociation.type) this.notices.vfAssociations++;
    else this.notices.others++;
  }

  /** Frames are spread over the channels that are left. */
  #rescale(): void {
    if (this.#closing !== undefined) return;
    this.spread(this.#scalingChoice).catch((error: unknown) => {
      // All channels go when the adapter goes.
      if (this.#isGone()) return;
      this.#context.log(`receive scaling: ${(error as Error).message}`);
    });
  }

  #armKeepalive(): void {
    const { keepaliveIntervalMs } = this.#options;
    if (keepaliveIntervalMs === 0) return;
    this.#keepaliveTimer = this.#context.timers.after(keepaliveIntervalMs, () => {
      this.conversation.ask({ kind: "keepalive" }).then(
        () => this.#armKeepalive(),
        (error: unknown) => {
          if (this.#closing !== undefined || this.#goneReason !== undefined) return;
          this.#context.log(`keepalive: ${(error as Error).message}`);
          this.#armKeepalive();
        },
      );
    });
  }

  /** The primary channel has closed. */
  #ended(reason: ChannelClosedReason): void {
    this.#goneReason = reason;
    const error =
      reason === "rescinded"
        ? new NetvscError("ERR_RESCINDED", "the host took the adapter away")
        : new NetvscError("ERR_CLOSED", "the adapter's channel is closed");
    this.conversation.close(error);
    if (this.#closing === undefined && this.#parameters !== undefined) this.#events.lost(error);
  }

  async #close(): Promise<void> {
    this.#link?.stop();
    this.#keepaliveTimer?.cancel();
    await this.#part();
    this.conversation.close(CLOSED);
    await this.#subChannels.close();
    await this.#primary.close(this.#goneReason);
    // Newer hosts hang, or fail, when the buffers go before the channel; older ones, when they go after it.
    await Promise.all([...this.#sharing].map((sharing) => sharing.catch(() => undefined)));
    for (const gpadl of [...this.#gpadls]) await this.#tearDown(gpadl);
    await this.#within(this.#options.subChannelTimeoutMs, this.#offers.gone());
  }

  /** The part of the detach that needs a host that listens. Source: FreeBSD `hn_synth_detach`, `hn_nvs_disconn_*`. */
  async #part(): Promise<void> {
    const parameters = this.#parameters;
    if (this.#isGone() || parameters === undefined) return;
    const { receiveBuffer, sendBuffer, packetBytes } = parameters;
    const { settleMs, drainTimeoutMs } = this.#options;
    await this.setFilter(PacketFilter.none).catch(() => undefined);
    await this.#settle(settleMs);
    const drained = Promise.all([this.#queue.drain(), this.#subChannels.drain()]);
    await this.#within(drainTimeoutMs, Promise.race([drained, this.#gone]));
    await this.conversation.ask({ kind: "halt" }).catch(() => undefined);
    const early = this.#context.device.busVersion < ProtocolVersion.v4_0;
    // With the buffer goes the memory of frames that users still hold.
    if (early) await Promise.all([this.#primary.endUse(), this.#subChannels.endUse()]);
    await this.#revoke(
      NvspRevokeReceiveBuffer.packet({ id: RECEIVE_BUFFER_ID }, packetBytes),
      early ? receiveBuffer : undefined,
    );
    if (sendBuffer !== undefined)
      await this.#revoke(
        NvspRevokeSendBuffer.packet({ id: SEND_BUFFER_ID }, packetBytes),
        early ? sendBuffer : undefined,
      );
  }

  /** Takes a buffer back, which is not confirmed: that the host has read it, and some time, must do. */
  async #revoke(message: Uint8Array, tearDown: SharedBuffer | undefined): Promise<void> {
    if (this.#isGone()) return;
    const { timers } = this.#context;
    const { settleMs, answerTimeoutMs } = this.#options;
    this.#control.notice(message);
    this.#queue.flush();
    const deadline = timers.now() + answerTimeoutMs;
    await this.#settle(settleMs);
    while (!this.#isGone() && !this.#queue.isRead && timers.now() < deadline)
      await this.#settle(READ_LOOK_MS);
    for (const gpadl of [...this.#gpadls])
      if (gpadl.gpadlId === tearDown?.gpadlId) await this.#tearDown(gpadl);
  }

  async #tearDown(gpadl: Gpadl): Promise<void> {
    this.#gpadls.delete(gpadl);
    await this.#context.device.tearDownGpadl(gpadl);
  }

  #isGone(): boolean {
    return this.#goneReason !== undefined;
  }

  /** Lets time pass, unless the host is gone. */
  #settle(delayMs: number): Promise<void> {
    return this.#within(delayMs, this.#gone);
  }

  async #within(limitMs: number, promise: Promise<unknown>): Promise<void> {
    let timer: Timer | undefined;
    const timeUp = new Promise<void>((resolve) => {
      timer = this.#context.timers.after(limitMs, resolve);
    });
    await Promise.race([promise, timeUp]);
    timer?.cancel();
  }
}

function receiveSide({
  address,
  lengthBytes,
  slots,
}: NetvscParameters["receiveBuffer"]): ReceiveSide {
  return { address, lengthBytes, slots };
}

function emit32(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}
