import { DeviceClass } from "../protocol/index.js";

/** How a release of FreeBSD spreads channels over processors. */
export type BindingEra = "freebsd-10.1" | "freebsd-10.2" | "freebsd-11";

/** The channel to be bound. */
export interface ChannelToBind {
  readonly classId: string;
  /** 0 for the primary channel. */
  readonly subChannelIndex: number;
  /** Processor of the device's primary channel; 0 for a primary channel itself, and unless a driver chose another. */
  readonly base: number;
}

/** A decision, and the round-robin counter after it. */
export interface ChannelBinding {
  readonly cpu: number;
  readonly counter: number;
}

const { network, ide, scsi } = DeviceClass;

/**
 * The processor for a channel. A channel is bound before it opens and stays there.
 *
 * - up to 10.1: everything on the first (protocol 0.13 knows no other);
 * - 10.2: network, IDE and SCSI channels in turn, beginning with the second; the rest on the first;
 * - 11.0 and later: the driver decides. storvsc takes turns beginning with the first; the network's
 *   rings follow each other from that of the primary channel; the rest stays on the first.
 *
 * @param counter - The bus's round-robin counter, 0 at boot. @param cpus - Number of processors.
 * Source: freebsd `hv_channel_mgmt.c` (10.x), `vmbus_chan.c`, `if_hn.c`, `hv_storvsc_drv_freebsd.c`.
 */
export function bindChannelCpu(
  era: BindingEra,
  { classId, subChannelIndex, base }: ChannelToBind,
  counter: number,
  cpus: number,
): ChannelBinding {
  const isNetwork = classId === network.classId;
  const isDisk = classId === scsi.classId || classId === ide.classId;
  switch (era) {
    case "freebsd-10.1":
      return { cpu: 0, counter };
    case "freebsd-10.2":
      if (!isNetwork && !isDisk) return { cpu: 0, counter };
      return { cpu: (counter + 1) % cpus, counter: counter + 1 };
    case "freebsd-11":
      if (isDisk) return { cpu: counter % cpus, counter: counter + 1 };
      return { cpu: isNetwork ? (base + subChannelIndex) % cpus : 0, counter };
  }
}
