import type { Channel, ChannelClosedReason, ChannelHandler } from "./channel.js";
import type { ChannelDescription } from "./channel-description.js";
import type { Timers } from "./clock.js";
import type { GuestMemory } from "./guest-memory.js";
import type { PageAllocator } from "./page-allocator.js";
import type { QueueHalf, QueueHandle, TellControl } from "./queue-handle.js";

/** The contract between a kernel and a driver module; a module of another number is refused at load time. */
export const KERNEL_INTERFACE = 1;

/**
 * A channel that the host offers, as a driver's control half uses it, on the boot processor.
 *
 * Requests reject with a `BusError`; when the host rescinds the channel, or the bus is unloaded, whatever
 * is pending rejects at once with `ERR_RESCINDED` or `ERR_UNLOADED`.
 */
export interface OfferedChannel {
  readonly relid: number;
  /** Resolves when the host has rescinded the channel, or the bus was unloaded. What is prepared is still to be closed. */
  readonly rescinded: Promise<void>;
  /** The CPU that the release's policy binds the channel to. Advances the policy's round robin: to be asked once per channel. */
  assignCpu(): number;
  /** Allocates zeroed rings and shares them with the host; the channel is not open yet. Once at a time, until `closeChannel`. */
  prepareChannel(options: PrepareChannelOptions): Promise<ChannelDescription>;
  /** Opens a prepared channel, after its CPU has bound it. Rejects with `ERR_OPEN_FAILED` if the host refuses; the rings stay until `closeChannel`. */
  openChannel(description: ChannelDescription, userData?: Uint8Array): Promise<void>;
  /**
   * Moves an open channel's interrupts to another CPU; resolves with its new description. From protocol
   * 4.1 on, else rejects with `ERR_UNSUPPORTED`. Below 5.3 interrupts may still come on the old CPU.
   */
  moveChannel(description: ChannelDescription, cpu: number): Promise<ChannelDescription>;
  /** Closes a channel that its CPU no longer uses, and takes the rings back. Never rejects: memory that the host did not release is leaked. */
  closeChannel(description: ChannelDescription): Promise<void>;
  /** Shares zeroed pages with the host, in any state of the channel. */
  createGpadl(pageCount: number): Promise<Gpadl>;
  /** Takes the pages back. Never rejects: memory that the host did not release is leaked. */
  tearDownGpadl(gpadl: Gpadl): Promise<void>;
}

/** What a device offers to its driver's control half: its primary channel, and what the offer says. */
export interface VmbusDevice extends OfferedChannel {
  /** Class GUID, lower-case text. */
  readonly classId: string;
  /** Instance GUID, lower-case text. */
  readonly instanceId: string;
  /** The 120 bytes that the host's device put into its offer. */
  readonly userDefined: Uint8Array;
  /** Protocol version of the bus, major << 16 | minor. */
  readonly busVersion: number;
  /** Calls back for each sub-channel that the host offers, those that are there already included. */
  onSubChannel(offered: (channel: SubChannel) => void): void;
}

/** A further channel of a device. */
export interface SubChannel extends OfferedChannel {
  /** 1 and up. */
  readonly index: number;
}

/** The rings that a channel is to get, and where it is to run. */
export interface PrepareChannelOptions {
  /** Pages of each ring, control page included. */
  readonly outgoingPages: number;
  readonly incomingPages: number;
  /** CPU to bind the channel to. */
  readonly cpu: number;
  /** Signal the host by hypercall even if it gave the channel a monitor, which costs up to the monitor's latency. */
  readonly lowLatency?: boolean;
}

/** Memory that a channel shares with the host besides its rings. */
export interface Gpadl {
  readonly gpadlId: number;
  /** GPA of the first page; the pages are contiguous. */
  readonly address: number;
  readonly pageCount: number;
}

/** What a CPU offers to a driver's queue half. */
export interface QueueContext {
  readonly memory: GuestMemory;
  /** The CPU's own arena. */
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** Binds a prepared channel to this CPU: from now on `handler` gets its packets. */
  bindChannel(description: ChannelDescription, handler: ChannelHandler): Channel;
  /**
   * Ends what `bindChannel` began; the handler is told once that the channel closed. With "rescinded" it
   * first gets the packets that the host left in the ring.
   */
  unbindChannel(description: ChannelDescription, reason?: ChannelClosedReason): void;
}

/** The wall clock of the system, UTC. */
export interface RealTimeClock {
  /** Nanoseconds since 1970. */
  nowNs(): bigint;
  /** Steps to another time. */
  set(timeNs: bigint): void;
}

/** What a kernel lets drivers see and do of the whole system. */
export interface SystemServices {
  readonly realTime: RealTimeClock;
  /** The hypervisor's reference counter, in 100 ns units since the machine was started; undefined if it has none. */
  referenceTime(): bigint | undefined;
  /** How the system is, as its host may know. */
  health(): "healthy" | "critical" | "stopped";
  /** Begins an orderly shutdown, after which the machine is off or starts anew. Returns at once. */
  shutdown(action: ShutdownAction): void;
}

/** What an orderly shutdown ends in. */
export type ShutdownAction = "power-off" | "restart";

/** What the kernel offers to a driver's control half. */
export interface ControlContext<Queue extends QueueHalf> {
  readonly device: VmbusDevice;
  readonly timers: Timers;
  /** The CPUs that queues can live on, the boot processor first. */
  readonly cpus: readonly number[];
  /** The value of a loader tunable, by FreeBSD's name; undefined if the kernel does not have it. */
  tunable(name: string): number | undefined;
  /** One line for dmesg, without the device's name. */
  log(line: string): void;
  /** The system around the driver; absent where there is none, so that a driver that needs it cannot attach. */
  readonly system?: SystemServices;
  /**
   * Constructs the driver's queue half on a CPU from a plain description. Rejects if it cannot be constructed,
   * or if the CPU is gone.
   *
   * @param told - Gets the messages of the queue half.
   */
  startQueue(cpu: number, description: unknown, told: TellControl): Promise<QueueHandle<Queue>>;
}

/**
 * A driver as the kernel loads it: two halves and a contract. `Queue` is what `queue` makes, and what `control`
 * gets a handle of; `Attached` is the driver's public face.
 */
export interface DriverModule<Queue extends QueueHalf = QueueHalf, Attached = unknown> {
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
  /** Makes the part of the driver that lives on the CPU of a channel. @param tell - Sends its messages. */
  queue(context: QueueContext, description: unknown, tell: TellControl): Queue;
}
