import type {
  ChannelClosedReason,
  QueueHandle,
  SubChannel,
  VmbusDevice,
} from "@hyperv-is/vmbus-core";
import type { NetvscContext } from "./netvsc-context.js";
import type { NetvscQueueCounters } from "./queue-counters.js";
import type { NetvscQueueDescription, QueueTuning } from "./queue-description.js";
import type { NetvscQueueHalf, QueueMessage, QueueNews } from "./queue-half.js";

/** Where a channel comes from: the device itself for the primary, an offer of it for a sub-channel. */
export type ChannelSource = Pick<
  VmbusDevice & SubChannel,
  "prepareChannel" | "openChannel" | "closeChannel"
>;

/** What one channel has done, and how its rings are, as plain JSON: `NetvscQueue.inspect`. */
export type ChannelInspection = Record<string, unknown>;

/** An open channel: its rings at the host, and its queue half on the CPU that it is bound to. */
export class NetvscChannel {
  readonly description: NetvscQueueDescription;
  readonly handle: QueueHandle<NetvscQueueHalf>;
  /** Resolves when the channel has closed at the guest's end, for whatever reason. */
  readonly closed: Promise<ChannelClosedReason>;
  readonly #source: ChannelSource;
  #closing: Promise<void> | undefined;

  private constructor(
    source: ChannelSource,
    description: NetvscQueueDescription,
    handle: QueueHandle<NetvscQueueHalf>,
    closed: Promise<ChannelClosedReason>,
  ) {
    this.#source = source;
    this.description = description;
    this.handle = handle;
    this.closed = closed;
  }

  /**
   * Makes the rings, starts the queue half on `cpu`, and opens the channel, in this order: the queue is there
   * when the host's first signal comes. Whatever fails, what was made before is taken back.
   *
   * @param agreed - What was agreed on the primary channel; absent for the primary channel itself.
   */
  static async open(
    context: Pick<NetvscContext, "startQueue">,
    source: ChannelSource,
    cpu: number,
    ringPages: number,
    tuning: QueueTuning,
    agreed?: NetvscQueueDescription["agreed"],
  ): Promise<NetvscChannel> {
    const channel = await source.prepareChannel({
      outgoingPages: ringPages,
      incomingPages: ringPages,
      cpu,
    });
    const description = { channel, tuning, ...(agreed !== undefined && { agreed }) };
    let tellClosed: (reason: ChannelClosedReason) => void = () => undefined;
    const closed = new Promise<ChannelClosedReason>((resolve) => (tellClosed = resolve));
    let handle: QueueHandle<NetvscQueueHalf> | undefined;
    try {
      handle = await context.startQueue(cpu, description, (message) =>
        tellClosed((message as QueueNews).reason),
      );
      await source.openChannel(channel);
      return new NetvscChannel(source, description, handle, closed);
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

  /** 0 for the primary channel. */
  get index(): number {
    return this.description.channel.subChannelIndex;
  }

  /** Has no more frames taken; resolves when the host has nothing of what was sent any more, or the CPU is gone. */
  async drain(): Promise<void> {
    await this.#ask({ kind: "drain" }).catch(() => undefined);
  }

  /** Tells the user of the port that it is closed, before the channel is; resolves when it knows, or the CPU is gone. */
  async endUse(): Promise<void> {
    await this.#ask({ kind: "endUse" }).catch(() => undefined);
  }

  /** Resolves when the queue goes by what `RunTuning` has of it, or the CPU is gone. */
  async tune(tuning: QueueTuning): Promise<void> {
    await this.#ask({ kind: "tune", tuning }).catch(() => undefined);
  }

  /** Rejects when the CPU is gone. */
  async counters(): Promise<NetvscQueueCounters> {
    return (await this.#ask({ kind: "counters" })) as NetvscQueueCounters;
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
