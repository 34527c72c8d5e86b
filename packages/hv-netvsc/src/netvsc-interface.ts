import { aggregationOf, type Aggregation } from "./aggregation.js";
import { NetvscError } from "./errors.js";
import type { Link } from "./link-monitor.js";
import type { NetvscChannel } from "./netvsc-channel.js";
import type { NetvscContext } from "./netvsc-context.js";
import type { NetvscQueue } from "./netvsc-queue.js";
import { NetvscSession, type SessionOptions } from "./netvsc-session.js";
import type { NetvscParameters } from "./parameters.js";
import { DEFAULT_RSS_KEY, type Oid } from "./protocol/index.js";
import { addCounters, newQueueCounters, type NetvscQueueCounters } from "./queue-counters.js";
import type { QueueTuning, RunTuning } from "./queue-description.js";
import type { RndisConversation } from "./rndis-conversation.js";
import { scalingParameters, type ScalingChoice } from "./scaling.js";
import { SubChannelOffers } from "./sub-channels.js";

/** News of an interface. */
export interface InterfaceEvents {
  linkChanged?(link: Link): void;
  /** The interface is no more: the host took it away, or broke the protocol, or a new attach failed. Called once. */
  gone?(error: NetvscError): void;
}

/**
 * An attached interface, on the boot processor. Frames go through ports: `port` here, and on each other CPU that of
 * the queue half there (`NetvscQueueHalf.port`). An MTU change makes all of them new.
 */
export class NetvscInterface {
  readonly #context: NetvscContext;
  readonly #offers: SubChannelOffers;
  readonly #listeners = new Set<InterfaceEvents>();
  #options: SessionOptions;
  #session!: NetvscSession;
  #filter = 0;
  /** What the channels of earlier MTUs have counted, by their indices. */
  #earlier: ReadonlyMap<number, NetvscQueueCounters> = new Map();
  /** While no channel is open, all of it. */
  #meanwhile: ReadonlyMap<number, NetvscQueueCounters> | undefined;
  #changing: Promise<void> = Promise.resolve();
  #error: NetvscError | undefined;
  #detaching: Promise<void> | undefined;

  private constructor(context: NetvscContext, options: SessionOptions) {
    this.#context = context;
    this.#options = options;
    this.#offers = new SubChannelOffers(context.device);
  }

  /** See `attachNetvsc`. */
  static async attach(context: NetvscContext, options: SessionOptions): Promise<NetvscInterface> {
    const made = new NetvscInterface(context, options);
    made.#session = await made.#open(options);
    return made;
  }

  /** What was agreed with the host. */
  get parameters(): NetvscParameters {
    return this.#session.parameters;
  }

  /** The interface's own address, 6 bytes. */
  get address(): Uint8Array {
    return this.parameters.address;
  }

  get mtu(): number {
    return this.parameters.mtu;
  }

  get link(): Link {
    return this.#error === undefined ? this.#session.link : { up: false, speed: 0 };
  }

  /** The open channels, the primary first. */
  get channels(): readonly NetvscChannel[] {
    return this.#session.channels;
  }

  /** The primary channel, for code on the boot processor. */
  get port(): NetvscQueue {
    return this.#session.port;
  }

  /** How the channels are tuned now. */
  get tuning(): QueueTuning {
    return this.#options.tuning;
  }

  /** How much goes into one send, of what the tuning wants. */
  get aggregation(): Aggregation {
    const { sendBuffer } = this.parameters;
    return aggregationOf(this.tuning, this.parameters, sendBuffer?.sectionBytes ?? 0);
  }

  /** Further questions to the host. */
  get conversation(): RndisConversation {
    return this.#session.conversation;
  }

  /** The channel of each hash value modulo 16 that the host wants; absent unless it has said so. */
  get sendTable(): readonly number[] | undefined {
    return this.#session.sendTable;
  }

  /** Why the interface is no more; undefined while it is there. */
  get error(): NetvscError | undefined {
    return this.#error;
  }

  /** Has news told; returns what ends that. */
  on(events: InterfaceEvents): () => void {
    this.#listeners.add(events);
    return () => this.#listeners.delete(events);
  }

  /**
   * Which frames the host delivers: `PacketFilter` bits, for all channels. Kept over MTU changes. Rejects as
   * `RndisConversation.set` does.
   */
  async setFilter(filter: number): Promise<void> {
    await this.#changing;
    await this.#session.setFilter(filter);
    this.#filter = filter;
  }

  /**
   * Changes the largest payload of a frame, which takes a detach and a new attach with the same NVSP version. Frames
   * that are under way are lost; all ports are new. Resolves with the MTU that the host allows. Rejects if the
   * host does not attach again: with the MTU from before if that works, else the interface is gone.
   */
  setMtu(mtu: number): Promise<number> {
    return this.#inTurn(() => this.#changeMtu(mtu));
  }

  /** Tunes all channels otherwise, also those after a change of the MTU. Resolves when they go by it. Never rejects. */
  tune(change: Partial<RunTuning>): Promise<void> {
    return this.#inTurn(async () => {
      const tuning = { ...this.tuning, ...change };
      this.#options = { ...this.#options, tuning };
      await Promise.all(this.channels.map((channel) => channel.tune(tuning)));
    });
  }

  /**
   * Has the host coalesce received segments, or not; also after changes of the MTU. Rejects as `RndisConversation.set`
   * does, and with `ERR_NETVSC_REFUSED` where the host cannot.
   */
  setCoalescing(on: boolean): Promise<void> {
    return this.#inTurn(async () => {
      await this.#session.setCoalescing(on);
      const { offloads } = this.#options.attachment;
      this.#remember({ offloads: { ...offloads, receiveCoalescing: on } });
    });
  }

  /** How received frames are spread over the channels; with one channel the table is empty. */
  get scaling(): Required<ScalingChoice> {
    const { scaling } = this.parameters;
    const choice = this.#options.attachment.scaling;
    if (scaling === undefined) return { key: choice?.key ?? DEFAULT_RSS_KEY, table: [] };
    const indices = this.channels.map(({ index }) => index);
    const { key, table } = scalingParameters(scaling, indices, choice);
    return { key, table };
  }

  /**
   * Chooses how received frames are spread over the channels; also after changes of the MTU. With one channel it is kept
   * for when there are more. An entry with a channel that is not open is given another one. Rejects as
   * `RndisConversation.set` does.
   */
  setScaling(change: ScalingChoice): Promise<void> {
    return this.#inTurn(async () => {
      const scaling = { ...this.#options.attachment.scaling, ...change };
      await this.#session.spread(scaling);
      this.#remember({ scaling });
    });
  }

  /** The value of an object of the host's adapter. Rejects as `RndisConversation.query` does. */
  query(oid: Oid): Promise<Uint8Array> {
    return this.#session.conversation.query(oid);
  }

  /** Totals of all channels that are open now, and of those before changes of the MTU. */
  async counters(): Promise<NetvscQueueCounters> {
    return [...(await this.channelCounters()).values()].reduce(addCounters, newQueueCounters());
  }

  /** The same for each index of a channel. */
  async channelCounters(): Promise<ReadonlyMap<number, NetvscQueueCounters>> {
    if (this.#meanwhile !== undefined) return this.#meanwhile;
    const totals = new Map(this.#earlier);
    const counted = this.channels.map(async (channel) => {
      const counters = await channel.counters().catch(() => newQueueCounters());
      const earlier = totals.get(channel.index) ?? newQueueCounters();
      totals.set(channel.index, addCounters(earlier, counters));
    });
    await Promise.all(counted);
    return totals;
  }

  /** What there is to know about the interface, as plain JSON. */
  async inspect(): Promise<Record<string, unknown>> {
    const session = this.#session;
    const { address, ...parameters } = session.parameters;
    const channels = session.channels.map((channel) =>
      channel.inspect().catch((error: unknown) => ({ error: (error as Error).message })),
    );
    return {
      ...parameters,
      address: Array.from(address, (byte) => byte.toString(16).padStart(2, "0")).join(":"),
      filter: this.#filter,
      link: session.link,
      error: this.#error?.code ?? null,
      conversation: { ...session.conversation.counters },
      notices: { ...session.notices },
      sendTable: session.sendTable ?? null,
      channels: await Promise.all(channels),
    };
  }

  /** Takes the interface out of use. Never rejects; memory that the host may still use is leaked. Idempotent. */
  detach(): Promise<void> {
    this.#detaching ??= this.#changing.then(() => this.#session.close());
    return this.#detaching;
  }

  /** Holds for the next attach. */
  #remember(change: Partial<SessionOptions["attachment"]>): void {
    this.#options = { ...this.#options, attachment: { ...this.#options.attachment, ...change } };
  }

  /** One change after the other. */
  #inTurn<Result>(change: () => Promise<Result>): Promise<Result> {
    const done = this.#changing.then(change);
    this.#changing = done.then(
      () => undefined,
      () => undefined,
    );
    return done;
  }

  #open(options: SessionOptions): Promise<NetvscSession> {
    return NetvscSession.open(this.#context, this.#offers, options, {
      linkChanged: (link) => {
        for (const listener of this.#listeners) listener.linkChanged?.(link);
      },
      lost: (error) => this.#lost(error),
    });
  }

  async #changeMtu(mtu: number): Promise<number> {
    if (this.#detaching !== undefined)
      throw new NetvscError("ERR_CLOSED", "the interface is detached");
    if (this.#error !== undefined) throw this.#error;
    const before = this.#options;
    this.#meanwhile = await this.channelCounters();
    await this.#session.close();
    this.#earlier = this.#meanwhile;
    try {
      await this.#reopen(mtu);
    } catch (error) {
      this.#context.log(`mtu ${mtu}: ${(error as Error).message}`);
      this.#options = before;
      await this.#reopen(before.attachment.mtu).catch((again: unknown) => {
        this.#lost(again as NetvscError);
      });
      throw error;
    }
    return this.mtu;
  }

  async #reopen(mtu: number | undefined): Promise<void> {
    const { version, address, offloads } = this.parameters;
    const attachment = {
      ...this.#options.attachment,
      versions: [version],
      ...(mtu !== undefined && { mtu }),
    };
    const options = { ...this.#options, attachment };
    const session = await this.#open(options);
    const now = session.parameters;
    const same =
      now.address.every((byte, index) => byte === address[index]) &&
      now.offloads.transmitChecksums === offloads.transmitChecksums;
    if (!same) {
      await session.close();
      throw new NetvscError("ERR_NETVSC_CHANGED", "the adapter is not what it was");
    }
    this.#options = options;
    this.#session = session;
    this.#meanwhile = undefined;
    if (this.#filter !== 0) await session.setFilter(this.#filter);
  }

  #lost(error: NetvscError): void {
    if (this.#error !== undefined || this.#detaching !== undefined) return;
    this.#error = error;
    this.#context.log(error.message);
    for (const listener of [...this.#listeners]) listener.gone?.(error);
    void this.detach();
  }
}
