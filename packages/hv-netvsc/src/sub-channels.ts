import { SubChannelSet, type SubChannel } from "@hyperv-is/vmbus-core";
import { NetvscChannel } from "./netvsc-channel.js";
import type { NetvscContext } from "./netvsc-context.js";
import type { NetvscQueueDescription, QueueTuning } from "./queue-description.js";

/** The sub-channels that the host offers, over all attaches of an interface. */
export class SubChannelOffers {
  readonly #offers = new Set<SubChannel>();
  #taker: ((offer: SubChannel) => void) | undefined;
  #emptied: (() => void)[] = [];

  constructor(device: NetvscContext["device"]) {
    device.onSubChannel((offer) => {
      this.#offers.add(offer);
      void offer.rescinded.then(() => {
        this.#offers.delete(offer);
        if (this.#offers.size === 0) for (const resolve of this.#emptied.splice(0)) resolve();
      });
      this.#taker?.(offer);
    });
  }

  /** Calls back for each offer, those that are there already included, until the next call. */
  take(taker: (offer: SubChannel) => void): void {
    this.#taker = taker;
    for (const offer of this.#offers) taker(offer);
  }

  /** Offers are kept for the next attach. */
  leave(): void {
    this.#taker = undefined;
  }

  /** Resolves when the host has taken all of them back, as it must when the primary channel is closed. */
  gone(): Promise<void> {
    if (this.#offers.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptied.push(resolve));
  }
}

/** How the sub-channels of one attach are made. */
export interface SubChannelOptions {
  /** How long to wait for all that the host has promised. */
  readonly timeoutMs: number;
  readonly ringPages: number;
  readonly tuning: QueueTuning;
  /** What the channel of an index is told. */
  agreed(index: number): NetvscQueueDescription["agreed"];
}

/**
 * The sub-channels of one attach: opened while the attach waits for them, and let go of when the host takes them back or
 * breaks the protocol on them, or their CPU goes.
 */
export class SubChannels {
  readonly #offers: SubChannelOffers;
  readonly #set: SubChannelSet<NetvscChannel>;
  #options: SubChannelOptions | undefined;

  /** @param lost - Called when a channel that was open is let go of. */
  constructor(
    context: NetvscContext,
    offers: SubChannelOffers,
    primaryCpu: number,
    lost: () => void,
  ) {
    this.#offers = offers;
    this.#set = new SubChannelSet(context, primaryCpu, {
      open: (offer, cpu) => {
        if (this.#options === undefined) throw new Error("nobody has said how to open it");
        const { ringPages, tuning } = this.#options;
        const agreed = this.#options.agreed(offer.index);
        return NetvscChannel.open(context, offer, cpu, ringPages, tuning, agreed);
      },
      opened: (channel) => {
        void channel.closed.then(() => this.#set.end(channel, "the host broke the protocol"));
      },
      ended: lost,
    });
  }

  /** Those that are open, by index. */
  get list(): readonly NetvscChannel[] {
    return [...this.#set.list].sort((left, right) => left.index - right.index);
  }

  /** Opens `count` of them. Resolves when they are open or the time is up: with those that there are. Never rejects. */
  async open(count: number, options: SubChannelOptions): Promise<void> {
    this.#options = options;
    this.#set.wanted = count;
    await this.#set.collect(options.timeoutMs, () =>
      this.#offers.take((offer) => this.#set.take(offer)),
    );
    // Later ones would have no share in receive scaling.
    this.#offers.leave();
    await this.#set.opened();
  }

  /** Has no more frames taken; resolves when the host has nothing of what was sent on any of them. */
  async drain(): Promise<void> {
    await Promise.all(this.#set.list.map((channel) => channel.drain()));
  }

  /** Tells the users of all of them that they are closed, before they are. */
  async endUse(): Promise<void> {
    await Promise.all([...this.#set.list.map((channel) => channel.endUse()), this.#set.ended()]);
  }

  /** Closes all of them. Never rejects. */
  async close(): Promise<void> {
    this.#offers.leave();
    await this.#set.close();
  }
}
