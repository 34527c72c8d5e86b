import {
  type ChannelClosedReason,
  type ControlContext,
  type VmbusDevice,
} from "@hyperv-is/vmbus-core";
import type { IcChannel } from "./ic-channel.js";
import { type IcCounters, type IcService } from "./ic-channel.js";
import type { IcVersions } from "./protocol/index.js";

/** What the control half of a component uses of what a kernel offers: a `ControlContext` is one. */
export interface IcContext extends Pick<ControlContext<IcChannel>, "startQueue"> {
  readonly device: Pick<
    VmbusDevice,
    "rescinded" | "prepareChannel" | "openChannel" | "closeChannel"
  >;
}

/** What can be chosen about a component. */
export interface IcOptions {
  /** Pages of each ring, control page included; 4 unless told, as in FreeBSD and Linux. */
  readonly ringPages?: number;
  /** The host is not heard before `IcChannel.listen`: a component that needs a daemon. */
  readonly held?: boolean;
}

/** The boot processor: components have one channel, and it is there. */
const BOOT_CPU = 0;

/** An integration component that is attached to its device. */
export class IcComponent<Service extends IcService = IcService> {
  readonly channel: IcChannel;
  readonly service: Service;
  readonly #close: (reason: ChannelClosedReason) => Promise<void>;
  #closing: Promise<void> | undefined;

  private constructor(
    context: IcContext,
    channel: IcChannel,
    service: Service,
    close: (reason: ChannelClosedReason) => Promise<void>,
  ) {
    this.channel = channel;
    this.service = service;
    this.#close = close;
    void context.device.rescinded.then(() => this.#end("rescinded"));
  }

  /**
   * Opens the device's channel, on the boot processor, and has a service answer the host. Rejects with what the bus
   * rejects with; what was made before is taken back then.
   */
  static async attach<Service extends IcService>(
    context: IcContext,
    serve: (channel: IcChannel) => Service,
    options: IcOptions = {},
  ): Promise<IcComponent<Service>> {
    const { device } = context;
    const pages = options.ringPages ?? 4;
    const description = await device.prepareChannel({
      outgoingPages: pages,
      incomingPages: pages,
      cpu: BOOT_CPU,
    });
    try {
      const plain = { channel: description };
      const handle = await context.startQueue(BOOT_CPU, plain, () => undefined);
      try {
        const channel = handle.local;
        if (channel === undefined) throw new Error("the channel is on another CPU");
        const service = serve(channel);
        channel.serve(service);
        if (options.held !== true) channel.listen();
        await device.openChannel(description);
        return new IcComponent(context, channel, service, async (reason) => {
          await handle.stop(reason);
          await device.closeChannel(description);
        });
      } catch (error) {
        await handle.stop();
        throw error;
      }
    } catch (error) {
      await device.closeChannel(description);
      throw error;
    }
  }

  /** The agreed versions; undefined while there are none. */
  get versions(): IcVersions | undefined {
    return this.channel.versions;
  }

  get counters(): IcCounters {
    return this.channel.counters;
  }

  /** Closes the channel and gives its rings back. Never rejects. Idempotent. */
  detach(): Promise<void> {
    return this.#end("closed");
  }

  #end(reason: ChannelClosedReason): Promise<void> {
    this.#closing ??= this.#close(reason);
    return this.#closing;
  }
}
