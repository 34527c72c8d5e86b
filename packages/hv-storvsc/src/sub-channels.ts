import { SubChannelSet } from "@hyperv-is/vmbus-core";
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
 * The further channels of a controller: asked for once, opened whenever the host offers them, and let go of when it takes
 * them back or breaks the protocol on them, or their CPU goes.
 */
export class SubChannels {
  readonly #context: StorvscContext;
  readonly #parameters: StorvscParameters;
  readonly #options: SubChannelOptions;
  readonly #events: SubChannelEvents;
  readonly #set: SubChannelSet<StorvscChannel>;
  #offered = 0;

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
    this.#set = new SubChannelSet(context, primaryCpu, {
      open: (offer, cpu) => StorvscChannel.open(context, offer, cpu, options.channel, parameters),
      opened: (channel) => {
        channel.onNews((news) => this.#hear(channel, news));
        this.publishTo(channel);
      },
    });
    this.#set.wanted = options.wanted;
    // Before anything is asked for: offers may come before the answer.
    context.device.onSubChannel((offer) => {
      this.#offered++;
      this.#set.take(offer);
    });
  }

  /** Those that are open. */
  get list(): readonly StorvscChannel[] {
    return this.#set.list;
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
    await this.#set.collect(timeoutMs, () => {
      if (!queue.sendControl(packet, (reply) => this.#answered(reply))) this.#set.giveUp();
    });
  }

  /** Tells all CPUs what disks there are. */
  publish(): void {
    for (const channel of this.list) this.publishTo(channel);
  }

  /** Tells one of them. */
  publishTo(channel: StorvscChannel): void {
    // A CPU that cannot make its faces of the disks has no room for them, or is gone.
    channel.tellDisks(this.#events.disks()).catch((error: unknown) => {
      this.#set.end(channel, (error as Error).message);
    });
  }

  /** Opens no more, takes no new requests, and lets those in flight finish. Never rejects. */
  async drain(): Promise<void> {
    this.#set.refuse();
    await Promise.all(this.list.map((channel) => channel.drain()));
  }

  /** Closes all of them, after `drain` or the end of the time for that. Never rejects. */
  async close(): Promise<void> {
    await this.#set.close();
  }

  #answered(packet: Uint8Array): void {
    const header = parseVstorHeader(packet);
    if (header?.operation === VstorOperation.completeIo && header.status === 0) return;
    const status = (header?.status ?? 0).toString(16);
    this.#context.log(`the host refuses sub-channels (status 0x${status})`);
    this.#set.giveUp();
  }

  #hear(channel: StorvscChannel, news: QueueNews): void {
    if (news.kind === "luns") this.#events.lunsChanged();
    else if (news.kind === "disk") this.#events.diskNews(channel, news.target, news.lun);
    else if (news.reason === "corrupt")
      this.#set.end(channel, "the host broke the protocol, channel closed");
  }
}
