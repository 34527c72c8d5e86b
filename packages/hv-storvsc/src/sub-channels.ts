import type { SubChannel, Timer } from "@hyperv-is/vmbus-core";
import type { StorvscParameters } from "./negotiation.js";
import {
  emitSubChannelCount,
  emitVstorHeader,
  parseVstorHeader,
  VstorFlag,
  VstorOperation,
} from "./protocol/index.js";
import type { QueueNews } from "./queue-half.js";
import type { DiskDescription } from "./scsi-disk.js";
import { StorvscChannel, type ChannelOptions } from "./storvsc-channel.js";
import type { StorvscContext } from "./storvsc-context.js";
import type { StorvscQueue } from "./storvsc-queue.js";

/** How many sub-channels a controller has, and how they are made. */
export interface SubChannelOptions {
  /** To ask for, and to open; 0: none. */
  readonly wanted: number;
  /** How long `request` waits for all of them. */
  readonly timeoutMs: number;
  readonly channel: ChannelOptions;
}

/** What a controller hears of its sub-channels. */
export interface SubChannelEvents {
  /** The disks that a new channel's CPU is told of. */
  disks(): readonly DiskDescription[];
  /** A disk of that address has news, on a sub-channel. */
  diskNews(channel: StorvscChannel, target: number, lun: number): void;
  lunsChanged(): void;
}

/**
 * The further channels of a controller, each on the CPU that has the fewest of them: asked for once, opened
 * whenever the host offers them, in any order, and let go of when it takes them back or their CPU goes.
 * The controller works with those that there are.
 */
export class SubChannels {
  readonly #context: StorvscContext;
  readonly #parameters: StorvscParameters;
  readonly #options: SubChannelOptions;
  readonly #events: SubChannelEvents;
  readonly #open: StorvscChannel[] = [];
  /** CPUs of the channels that are being opened or open. */
  readonly #cpus: number[];
  readonly #lostCpus = new Set<number>();
  /** Offers that are being opened. */
  readonly #opening = new Set<Promise<void>>();
  /** Channels that are being let go of. */
  readonly #ending = new Set<Promise<void>>();
  #offered = 0;
  #failed = 0;
  #closing = false;
  /** Ends the wait of `request`. */
  #settle: () => void = () => undefined;

  constructor(
    context: StorvscContext,
    primaryCpu: number,
    parameters: StorvscParameters,
    options: SubChannelOptions,
    events: SubChannelEvents,
  ) {
    this.#context = context;
    this.#parameters = parameters;
    this.#options = options;
    this.#events = events;
    this.#cpus = [primaryCpu];
    // Before anything is asked for: offers may come before the answer.
    context.device.onSubChannel((offer) => this.#take(offer));
  }

  /** Those that are open. */
  get list(): readonly StorvscChannel[] {
    return this.#open;
  }

  /** Offers so far, those that are not wanted included. */
  get offered(): number {
    return this.#offered;
  }

  /**
   * Asks the host for the channels. Resolves when they are open, or the host refuses, or the time is up; what
   * comes later is opened then. Never rejects.
   */
  async request(queue: StorvscQueue): Promise<void> {
    const { wanted, timeoutMs } = this.#options;
    if (wanted === 0) return;
    const packet = new Uint8Array(this.#parameters.packetBytes);
    const operation = VstorOperation.createSubChannels;
    emitVstorHeader(packet, { operation, flags: VstorFlag.requestCompletion, status: 0 });
    emitSubChannelCount(packet, wanted);
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      this.#settle = resolve;
      timer = this.#context.timers.after(timeoutMs, () => {
        this.#context.log(`${this.#open.length} of ${wanted} sub-channels came`);
        resolve();
      });
      if (!queue.sendControl(packet, (reply) => this.#answered(reply))) resolve();
    });
    timer?.cancel();
  }

  /** Tells all CPUs what disks there are. */
  publish(): void {
    for (const channel of this.#open) this.publishTo(channel);
  }

  /** Tells one of them. */
  publishTo(channel: StorvscChannel): void {
    // A CPU that cannot make its faces of the disks has no room for them, or is gone.
    channel.tellDisks(this.#events.disks()).catch((error: unknown) => {
      this.#end(channel, (error as Error).message);
    });
  }

  /** Opens no more, takes no new requests, and lets those in flight finish. Never rejects. */
  async drain(): Promise<void> {
    this.#closing = true;
    this.#settle();
    await Promise.all(this.#open.map((channel) => channel.drain()));
  }

  /** Closes all of them, after `drain` or the end of the time for that. Never rejects. */
  async close(): Promise<void> {
    await Promise.all(this.#open.splice(0).map((channel) => channel.close()));
    await Promise.all([...this.#opening, ...this.#ending]);
  }

  #answered(packet: Uint8Array): void {
    const header = parseVstorHeader(packet);
    if (header?.operation === VstorOperation.completeIo && header.status === 0) {
      this.#settleIfDone();
      return;
    }
    const status = (header?.status ?? 0).toString(16);
    this.#context.log(`the host refuses sub-channels (status 0x${status})`);
    this.#settle();
  }

  #take(offer: SubChannel): void {
    this.#offered++;
    const cpu = this.#nextCpu();
    // An offer that nobody asked for stays unopened: the host has nothing to lose by it.
    if (this.#closing || this.#cpus.length > this.#options.wanted || cpu === undefined) return;
    this.#cpus.push(cpu);
    const opening = this.#openOn(cpu, offer).finally(() => {
      this.#opening.delete(opening);
      this.#settleIfDone();
    });
    this.#opening.add(opening);
  }

  async #openOn(cpu: number, offer: SubChannel): Promise<void> {
    const { channel: options } = this.#options;
    try {
      const parameters = this.#parameters;
      const channel = await StorvscChannel.open(this.#context, offer, cpu, options, parameters);
      if (this.#closing) await channel.close();
      else this.#use(channel, offer);
    } catch (error) {
      this.#forgetCpu(cpu);
      this.#failed++;
      if (!this.#closing)
        this.#context.log(`sub-channel ${offer.index} on cpu${cpu}: ${(error as Error).message}`);
    }
  }

  #use(channel: StorvscChannel, offer: SubChannel): void {
    this.#open.push(channel);
    channel.onNews((news) => this.#hear(channel, news));
    void offer.rescinded.then(() => this.#end(channel, "revoked", "rescinded"));
    void channel.handle.lost.then((reason) => {
      this.#lostCpus.add(channel.cpu);
      this.#end(channel, reason.message);
    });
    this.publishTo(channel);
  }

  #hear(channel: StorvscChannel, news: QueueNews): void {
    if (news.kind === "luns") this.#events.lunsChanged();
    else if (news.kind === "disk") this.#events.diskNews(channel, news.target, news.lun);
    else if (news.reason === "corrupt")
      this.#end(channel, "the host broke the protocol, channel closed");
  }

  /** A channel is of no use any more: lets go of it. */
  #end(channel: StorvscChannel, why: string, reason?: "rescinded"): void {
    const at = this.#open.indexOf(channel);
    if (at < 0) return;
    this.#open.splice(at, 1);
    this.#forgetCpu(channel.cpu);
    this.#context.log(`chan${channel.relid} on cpu${channel.cpu}: ${why}`);
    const ending = channel.close(reason).finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
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

  #settleIfDone(): void {
    if (this.#open.length + this.#failed >= this.#options.wanted) this.#settle();
  }
}
