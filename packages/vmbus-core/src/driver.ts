import type { Channel, ChannelHandler } from "./channel.js";
import type { ChannelDescription } from "./channel-description.js";
import type { Timers } from "./clock.js";
import type { GuestMemory } from "./guest-memory.js";
import type { PageAllocator } from "./page-allocator.js";

/** The contract between a kernel and a driver module; a module of another number is refused at load time. */
export const KERNEL_INTERFACE = 1;

/** What a device offers to its driver's control half, on the boot processor. */
export interface VmbusDevice {
  /** Class GUID, lower-case text. */
  readonly classId: string;
  /** Instance GUID, lower-case text. */
  readonly instanceId: string;
  readonly relid: number;
  /** The 120 bytes that the host's device put into its offer. */
  readonly userDefined: Uint8Array;
  /** Protocol version of the bus, major << 16 | minor. */
  readonly busVersion: number;
  /** Resolves when the host has rescinded the device; every pending call below then rejects with `ERR_RESCINDED`. */
  readonly rescinded: Promise<void>;
  /** Allocates zeroed rings and shares them with the host; the channel is not open yet. */
  prepareChannel(options: PrepareChannelOptions): Promise<ChannelDescription>;
  /** Opens a prepared channel, after its CPU has bound it. Rejects with `ERR_OPEN_FAILED` if the host refuses. */
  openChannel(description: ChannelDescription, userData?: Uint8Array): Promise<void>;
  /** Closes a channel that its CPU no longer uses, and takes the rings back. Never rejects: memory that the host did not release is leaked. */
  closeChannel(description: ChannelDescription): Promise<void>;
  /** Calls back for each sub-channel that the host offers, those that are there already included. */
  onSubChannel(offered: (device: SubChannel) => void): void;
}

/** A further channel of a device. */
export interface SubChannel {
  readonly relid: number;
  /** 1 and up. */
  readonly index: number;
  readonly rescinded: Promise<void>;
  prepareChannel(options: PrepareChannelOptions): Promise<ChannelDescription>;
  openChannel(description: ChannelDescription, userData?: Uint8Array): Promise<void>;
  closeChannel(description: ChannelDescription): Promise<void>;
}

export interface PrepareChannelOptions {
  /** Pages of each ring, control page included. */
  readonly outgoingPages: number;
  readonly incomingPages: number;
  /** CPU to bind the channel to. */
  readonly cpu: number;
}

/** What a CPU offers to a driver's queue half. */
export interface QueueContext {
  readonly memory: GuestMemory;
  /** The CPU's own arena. */
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** Binds a prepared channel to this CPU: from now on `handler` gets its packets. */
  bindChannel(description: ChannelDescription, handler: ChannelHandler): Channel;
  /** Ends what `bindChannel` began; the handler is told once that the channel closed. */
  unbindChannel(description: ChannelDescription): void;
}

/** What the kernel offers to a driver's control half. */
export interface ControlContext<Queue> {
  readonly device: VmbusDevice;
  readonly timers: Timers;
  /** Number of CPUs that queues can live on. */
  readonly cpus: number;
  /** One line for dmesg, without the device's name. */
  log(line: string): void;
  /** Constructs the driver's queue half on a CPU from a plain description. */
  startQueue(cpu: number, description: unknown): Promise<Queue>;
}

/**
 * A driver as the kernel loads it: two halves and a contract. `Queue` is what `queue` makes and `control`
 * gets back; `Attached` is the driver's public face.
 */
export interface DriverModule<Queue = unknown, Attached = unknown> {
  /** FreeBSD's module name, for example `hv_storvsc`. */
  readonly name: string;
  /** Version of the package. */
  readonly version: string;
  /** `KERNEL_INTERFACE` that it was built for. */
  readonly kernelInterface: number;
  /** Name of the device, for example `storvsc`: units are counted per name. */
  readonly deviceName: string;
  /** What the device says of itself in dmesg, for a class that the driver serves; undefined for any other. */
  probe(classId: string): string | undefined;
  /** Attaches a device, on the boot processor. */
  control(context: ControlContext<Queue>): Promise<Attached>;
  /** Makes the part of the driver that lives on the CPU of a channel. */
  queue(context: QueueContext, description: unknown): Queue;
}
