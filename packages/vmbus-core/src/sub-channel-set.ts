import type { Timer } from "./clock.js";
import type { ControlContext, SubChannel } from "./driver.js";
import type { QueueHalf } from "./queue-handle.js";

/** A sub-channel that a driver has opened. */
export interface OpenSubChannel {
  readonly relid: number;
  readonly cpu: number;
  /** Resolves when the CPU is gone. */
  readonly handle: { readonly lost: Promise<Error> };
  /** Lets go of the channel. Never rejects. @param reason - Why, where the host has taken it back. */
  close(reason?: "rescinded"): Promise<void>;
}

/** What the driver does for its sub-channels. */
export interface SubChannelUser<Channel extends OpenSubChannel> {
  /** Opens an offered channel on a CPU; rejects if that fails. */
  open(offer: SubChannel, cpu: number): Promise<Channel>;
  /** A channel is open, and listed. */
  opened?(channel: Channel): void;
  /** A channel is listed no longer, and let go of: the host has taken it back, its CPU is gone, or `end` was called. */
  ended?(channel: Channel): void;
}

/**
 * The further channels of a device, each on the CPU that has the fewest of them: opened whenever the host offers
 * them, in any order, and let go of when it takes them back or their CPU goes. The driver works with those that
 * there are.
 */
export class SubChannelSet<Channel extends OpenSubChannel> {
  /** So many are opened at most. */
  wanted = 0;
  readonly #context: Pick<ControlContext<QueueHalf>, "cpus" | "log" | "timers">;
  readonly #user: SubChannelUser<Channel>;
  readonly #open: Channel[] = [];
  /** CPUs of the primary channel, and of those that are being opened or open. */
  readonly #cpus: number[];
  readonly #lostCpus = new Set<number>();
  readonly #opening = new Set<Promise<void>>();
  readonly #ending = new Set<Promise<void>>();
  #failed = 0;
  #isClosing = false;
  /** Ends the wait of `collect`. */
  #settle: () => void = () => undefined;

  constructor(
    context: Pick<ControlContext<QueueHalf>, "cpus" | "log" | "timers">,
    primaryCpu: number,
    user: SubChannelUser<Channel>,
  ) {
    this.#context = context;
    this.#cpus = [primaryCpu];
    this.#user = user;
  }

  /** Those that are open, in the order in which they were opened. */
  get list(): readonly Channel[] {
    return this.#open;
  }

  /**
   * Calls `begin`, and resolves when as many as are wanted have been opened or have failed, `giveUp` is called, or
   * the time is up; what comes later is opened then. Rejects only with what `begin` throws.
   */
  async collect(timeoutMs: number, begin: () => void): Promise<void> {
    let timer: Timer | undefined;
    try {
      await new Promise<void>((resolve) => {
        this.#settle = resolve;
        timer = this.#context.timers.after(timeoutMs, () => {
          this.#context.log(`${this.#open.length} of ${this.wanted} sub-channels came`);
          resolve();
        });
        begin();
        this.#settleIfDone();
      });
    } finally {
      timer?.cancel();
    }
  }

  /** Ends the wait of `collect`: the host has said that it has no more. */
  giveUp(): void {
    this.#settle();
  }

  /** Opens what the host offers, if it is wanted. */
  take(offer: SubChannel): void {
    const cpu = this.#nextCpu();
    // An offer that nobody asked for stays unopened: the host has nothing to lose by it.
    if (this.#isClosing || this.#cpus.length > this.wanted || cpu === undefined) return;
    this.#cpus.push(cpu);
    const opening = this.#openOn(cpu, offer).finally(() => {
      this.#opening.delete(opening);
      this.#settleIfDone();
    });
    this.#opening.add(opening);
  }

  /** A channel is of no use any more: lets go of it, and says why. */
  end(channel: Channel, why: string, reason?: "rescinded"): void {
    const at = this.#open.indexOf(channel);
    if (at < 0) return;
    this.#open.splice(at, 1);
    this.#forgetCpu(channel.cpu);
    this.#context.log(`chan${channel.relid} on cpu${channel.cpu}: ${why}`);
    const ending = channel.close(reason).finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
    this.#user.ended?.(channel);
  }

  /** Resolves when none is being opened. */
  async opened(): Promise<void> {
    await Promise.all(this.#opening);
  }

  /** Resolves when those that were of no use any more are let go of. */
  async ended(): Promise<void> {
    await Promise.all(this.#ending);
  }

  /** Opens no more; those that are open stay so until `close`. */
  refuse(): void {
    this.#isClosing = true;
    this.#settle();
  }

  /** Closes all of them. Never rejects. */
  async close(): Promise<void> {
    this.refuse();
    await Promise.all(this.#open.splice(0).map((channel) => channel.close()));
    await Promise.all([...this.#opening, ...this.#ending]);
  }

  async #openOn(cpu: number, offer: SubChannel): Promise<void> {
    try {
      const channel = await this.#user.open(offer, cpu);
      if (this.#isClosing) await channel.close();
      else this.#use(channel, offer);
    } catch (error) {
      this.#forgetCpu(cpu);
      this.#failed++;
      if (!this.#isClosing)
        this.#context.log(`sub-channel ${offer.index} on cpu${cpu}: ${(error as Error).message}`);
    }
  }

  #use(channel: Channel, offer: SubChannel): void {
    this.#open.push(channel);
    void offer.rescinded.then(() => this.end(channel, "revoked", "rescinded"));
    void channel.handle.lost.then((reason) => {
      this.#lostCpus.add(channel.cpu);
      this.end(channel, reason.message);
    });
    this.#user.opened?.(channel);
  }

  #settleIfDone(): void {
    if (this.#open.length + this.#failed >= this.wanted) this.#settle();
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
