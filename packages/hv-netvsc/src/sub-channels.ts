import type { SubChannel, Timer } from "@hyperv-is/vmbus-core";
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
 * The sub-channels of one attach, each on the CPU that has the fewest channels: opened as the host offers them, in
 * any order, and let go of when it takes them back, breaks the protocol on them, or their CPU goes.
 */
export class SubChannels {
  readonly #context: NetvscContext;
  readonly #offers: SubChannelOffers;
  readonly #open: NetvscChannel[] = [];
  /** CPUs of the channels that are being opened or open. */
  readonly #cpus: number[];
  readonly #lostCpus = new Set<number>();
  readonly #opening = new Set<Promise<void>>();
  readonly #ending = new Set<Promise<void>>();
  readonly #lost: () => void;
  #wanted = 0;
  #failed = 0;
  #closing = false;
  #settle: () => void = () => undefined;

  /** @param lost - Called when a channel that was open is let go of. */
  constructor(
    context: NetvscContext,
    offers: SubChannelOffers,
    primaryCpu: number,
    lost: () => void,
  ) {
    this.#context = context;
    this.#offers = offers;
    this.#cpus = [primaryCpu];
    this.#lost = lost;
  }

  /** Those that are open, by index. */
  get list(): readonly NetvscChannel[] {
    return this.#open;
  }

  /** Opens `count` of them. Resolves when they are open or the time is up: with those that there are. Never rejects. */
  async open(count: number, options: SubChannelOptions): Promise<void> {
    this.#wanted = count;
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      this.#settle = resolve;
      timer = this.#context.timers.after(options.timeoutMs, () => {
        this.#context.log(`${this.#open.length} of ${count} sub-channels came`);
        resolve();
      });
      this.#offers.take((offer) => this.#take(offer, options));
    });
    timer?.cancel();
    // Later ones would have no share in receive scaling.
    this.#offers.leave();
    await Promise.all(this.#opening);
  }

  /** Has no more frames taken; resolves when the host has nothing of what was sent on any of them. */
  async drain(): Promise<void> {
    await Promise.all(this.#open.map((channel) => channel.drain()));
  }

  /** Tells the users of all of them that they are closed, before they are. */
  async endUse(): Promise<void> {
    await Promise.all([...this.#open.map((channel) => channel.endUse()), ...this.#ending]);
  }

  /** Closes all of them. Never rejects. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#settle();
    this.#offers.leave();
    await Promise.all(this.#open.splice(0).map((channel) => channel.close()));
    await Promise.all([...this.#opening, ...this.#ending]);
  }

  #take(offer: SubChannel, options: SubChannelOptions): void {
    const cpu = this.#nextCpu();
    // An offer that nobody asked for stays unopened: the host has nothing to lose by it.
    if (this.#closing || this.#cpus.length > this.#wanted || cpu === undefined) return;
    this.#cpus.push(cpu);
    const opening = this.#openOn(cpu, offer, options).finally(() => {
      this.#opening.delete(opening);
      if (this.#open.length + this.#failed >= this.#wanted) this.#settle();
    });
    this.#opening.add(opening);
  }

  async #openOn(cpu: number, offer: SubChannel, options: SubChannelOptions): Promise<void> {
    const { ringPages, tuning } = options;
    try {
      const agreed = options.agreed(offer.index);
      const channel = await NetvscChannel.open(
        this.#context,
        offer,
        cpu,
        ringPages,
        tuning,
        agreed,
      );
      if (this.#closing) await channel.close();
      else this.#use(channel, offer);
    } catch (error) {
      this.#forgetCpu(cpu);
      this.#failed++;
      if (!this.#closing)
        this.#context.log(`sub-channel ${offer.index} on cpu${cpu}: ${(error as Error).message}`);
    }
  }

  #use(channel: NetvscChannel, offer: SubChannel): void {
    this.#open.push(channel);
    this.#open.sort((left, right) => left.index - right.index);
    void offer.rescinded.then(() => this.#end(channel, "revoked", "rescinded"));
    void channel.closed.then(() => this.#end(channel, "the host broke the protocol"));
    void channel.handle.lost.then((reason) => {
      this.#lostCpus.add(channel.cpu);
      this.#end(channel, reason.message);
    });
  }

  /** A channel is of no use any more: lets go of it. */
  #end(channel: NetvscChannel, why: string, reason?: "rescinded"): void {
    const at = this.#open.indexOf(channel);
    if (at < 0 || this.#closing) return;
    this.#open.splice(at, 1);
    this.#forgetCpu(channel.cpu);
    this.#context.log(`chan${channel.relid} on cpu${channel.cpu}: ${why}`);
    const ending = channel.close(reason).finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
    this.#lost();
  }

  #forgetCpu(cpu: number): void {
    this.#cpus.splice(this.#cpus.lastIndexOf(cpu), 1);
  }

  /** The CPU with the fewest channels, the first of several. */
  #nextCpu(): number | undefined {
    let best: number | undefined;
    let fewest = Infinity;
    for (const cpu of this.#context.cpus) {
      if (this.#lostCpus.has(cpu)) continue;
      const count = this.#cpus.filter((other) => other === cpu).length;
      if (count >= fewest) continue;
      best = cpu;
      fewest = count;
    }
    return best;
  }
}
