import type { SubChannel, VmbusDevice } from "@hyperv-is/vmbus-core";
import type { StorvscParameters } from "./negotiation.js";
import { STORAGE_OPEN_USER_DATA_BYTES } from "./protocol/index.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import type { StorvscContext } from "./storvsc-context.js";
import type { StorvscQueue } from "./storvsc-queue.js";

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

/** An open channel: its rings at the host, and its queue on the CPU that it is bound to. */
export class StorvscChannel {
  readonly description: StorvscQueueDescription;
  readonly queue: StorvscQueue;
  readonly #source: ChannelSource;
  #closing: Promise<void> | undefined;

  private constructor(
    source: ChannelSource,
    description: StorvscQueueDescription,
    queue: StorvscQueue,
  ) {
    this.#source = source;
    this.description = description;
    this.queue = queue;
  }

  /**
   * Makes the rings, starts the queue on `cpu`, and opens the channel, in this order: the queue is there
   * when the host's first signal comes. Whatever fails, what was made before is taken back.
   *
   * @param parameters - What was agreed on the primary channel; absent for the primary channel itself.
   */
  static async open(
    context: StorvscContext,
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
    let queue: StorvscQueue | undefined;
    try {
      queue = await context.startQueue(cpu, description);
      await source.openChannel(channel, new Uint8Array(STORAGE_OPEN_USER_DATA_BYTES));
      return new StorvscChannel(source, description, queue);
    } catch (error) {
      queue?.stop();
      await source.closeChannel(channel);
      throw error;
    }
  }

  /** Abandons what is outstanding, closes the channel at the host, and gives its rings back. Idempotent. */
  close(): Promise<void> {
    this.queue.stop();
    this.#closing ??= this.#source.closeChannel(this.description.channel);
    return this.#closing;
  }
}
