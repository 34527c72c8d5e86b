import type {
  ChannelClosedReason,
  QueueHandle,
  SubChannel,
  VmbusDevice,
} from "@hyperv-is/vmbus-core";
import type { StorvscParameters } from "./negotiation.js";
import { STORAGE_OPEN_USER_DATA_BYTES } from "./protocol/index.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import type { QueueMessage, QueueNews, StorvscQueueHalf } from "./queue-half.js";
import type { DiskDescription } from "./scsi-disk.js";
import type { StorvscContext } from "./storvsc-context.js";

/** Where a channel comes from: the device itself for the primary, an offer of it for a sub-channel. */
export type ChannelSource = Pick<
  VmbusDevice & SubChannel,
  "prepareChannel" | "openChannel" | "closeChannel"
>;

/** How the channels of a controller are made. */
export interface ChannelOptions {
  /** Pages of each ring, control page included. */
  readonly ringPages: number;
  readonly slots: number;
  readonly bounceBuffers: number;
  readonly minimumCdbBytes: number;
  readonly pathId: number;
}

/** What one end of a channel has done, and how its rings are, as plain JSON: `StorvscQueue.inspect`. */
export type ChannelInspection = Record<string, unknown>;

/** An open channel: its rings at the host, and its queue half on the CPU that it is bound to. */
export class StorvscChannel {
  readonly description: StorvscQueueDescription;
  readonly handle: QueueHandle<StorvscQueueHalf>;
  readonly #source: ChannelSource;
  readonly #news: NewsBox;
  #closing: Promise<void> | undefined;

  private constructor(
    source: ChannelSource,
    description: StorvscQueueDescription,
    handle: QueueHandle<StorvscQueueHalf>,
    news: NewsBox,
  ) {
    this.#source = source;
    this.description = description;
    this.handle = handle;
    this.#news = news;
  }

  /**
   * Makes the rings, starts the queue half on `cpu`, and opens the channel, in this order: the queue is there
   * when the host's first signal comes. Whatever fails, what was made before is taken back.
   *
   * @param parameters - What was agreed on the primary channel; absent for the primary channel itself.
   */
  static async open(
    context: Pick<StorvscContext, "startQueue">,
    source: ChannelSource,
    cpu: number,
    options: ChannelOptions,
    parameters?: StorvscParameters,
  ): Promise<StorvscChannel> {
    const { ringPages, slots, bounceBuffers, minimumCdbBytes, pathId } = options;
    const channel = await source.prepareChannel({
      outgoingPages: ringPages,
      incomingPages: ringPages,
      cpu,
    });
    const description: StorvscQueueDescription = {
      channel,
      slots,
      bounceBuffers,
      minimumCdbBytes,
      pathId,
      ...(parameters === undefined ? {} : { parameters }),
    };
    const news = new NewsBox();
    let handle: QueueHandle<StorvscQueueHalf> | undefined;
    try {
      handle = await context.startQueue(cpu, description, (message) =>
        news.put(message as QueueNews),
      );
      await source.openChannel(channel, new Uint8Array(STORAGE_OPEN_USER_DATA_BYTES));
      return new StorvscChannel(source, description, handle, news);
    } catch (error) {
      await handle?.stop();
      await source.closeChannel(channel);
      throw error;
    }
  }

  get cpu(): number {
    return this.handle.cpu;
  }

  get relid(): number {
    return this.description.channel.relid;
  }

  /** Has the news of the queue half heard, those that came before included. */
  onNews(listener: (news: QueueNews) => void): void {
    this.#news.open(listener);
  }

  /** Tells the CPU what disks there are. Rejects when it cannot make use of them, or is gone. */
  async tellDisks(disks: readonly DiskDescription[]): Promise<void> {
    await this.#ask({ kind: "disks", disks });
  }

  /** Has the CPU take no new requests; resolves when none is in flight, or the CPU is gone. */
  async drain(): Promise<void> {
    await this.#ask({ kind: "drain" }).catch(() => undefined);
  }

  /** Rejects when the CPU is gone. */
  async inspect(): Promise<ChannelInspection> {
    return (await this.#ask({ kind: "inspect" })) as ChannelInspection;
  }

  /** Abandons what is outstanding, closes the channel at the host, and gives its rings back. Never rejects. Idempotent. */
  close(reason: ChannelClosedReason = "closed"): Promise<void> {
    this.#closing ??= this.#close(reason);
    return this.#closing;
  }

  async #close(reason: ChannelClosedReason): Promise<void> {
    await this.handle.stop(reason);
    await this.#source.closeChannel(this.description.channel);
  }

  #ask(message: QueueMessage): Promise<unknown> {
    return this.handle.ask(message);
  }
}

/** Keeps news until somebody wants them. */
class NewsBox {
  #early: QueueNews[] = [];
  #listener: ((news: QueueNews) => void) | undefined;

  put(news: QueueNews): void {
    if (this.#listener === undefined) this.#early.push(news);
    else this.#listener(news);
  }

  open(listener: (news: QueueNews) => void): void {
    this.#listener = listener;
    for (const news of this.#early.splice(0)) listener(news);
  }
}
