import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import type {
  BusOptions,
  DiskPlacement,
  DiskSource,
  FaultPlanData,
  SubChannelPolicy,
} from "@hyperv-is/hyperv-host";
import type { TraceFileOptions } from "@hyperv-is/hyperv-host/node";
import type { DialectName } from "./kernel/key-value-pairs.js";
import type { NicOptions, SwitchOptions } from "./machine-network.js";
import type { NbdExportOptions } from "./nbd/export-address.js";
import type { HostThreads, ThreadCpus } from "./machine-threads.js";

/** A disk to attach: the path of a VHD or VHDX, where its blocks are, or that and the controller it is on. */
export type BootDisk = string | DiskSource | DiskPlacement;

export interface BootOptions {
  /** `da0`, `da1`, ... in this order on each controller, one controller after the other. */
  readonly disks?: readonly BootDisk[];
  /** Virtual processors, each a thread: 1, unless told, to 64. */
  readonly cpus?: number;
  /** Guest memory, a multiple of 1 MiB from 32 MiB to 4 GiB, and 4 MiB for each CPU but the first; 256 MiB unless told. */
  readonly memoryBytes?: number;
  /**
   * The CPUs of this system that threads of the machine are kept on: `{ vcpu0: 1, disks: 1 }`, and `network` where there is
   * one. Needs Linux and the package koffi. Threads that share a CPU do not spin.
   */
  readonly pin?: ThreadCpus;
  /**
   * Which threads serve the host's disks and its network: their `own`, or that of `vcpu0`, so that one thread does for a
   * client (of NBD, at a TAP) what two would have to wake each other for; but a guest that works for itself stands still
   * while its host works. `auto` unless told: `vcpu0` on a system of at most two CPUs, if the machine has NBD exports
   * or a TAP, and its disks and network are not pinned.
   */
  readonly hostThreads?: HostThreads;
  /** Loader tunables by name, such as `hw.vmbus.signal_optimization`; `sysctl` shows them. */
  readonly tunables?: Readonly<Record<string, string | number>>;
  /** Network adapters: `hn0`, `hn1`, ... in this order. */
  readonly nics?: readonly NicOptions[];
  /** The switches that they are connected to. */
  readonly switches?: readonly SwitchOptions[];
  /** Sub-channels that the host lets each SCSI controller and network adapter have; `one-per-cpu` unless told. */
  readonly subChannels?: SubChannelPolicy;
  /** Driver modules to load from files instead of the drivers in tree of the same name. */
  readonly modules?: readonly string[];
  /** What the host's bus speaks: its versions, among others. */
  readonly bus?: BusOptions;
  /** How the host is to misbehave. */
  readonly faults?: FaultPlanData;
  /** Records what host and guest exchange into a file, for `hyperv-host trace`. */
  readonly trace?: TraceFileOptions;
  /** Disks of the guest to serve to NBD clients, from the boot to the shutdown. */
  readonly nbd?: readonly NbdExportOptions[];
  /** Makes a control socket for `hyperv-host`: the name of the machine, or the path of the socket. */
  readonly control?: string;
  /** Makes device nodes in this directory, unix sockets: `hv_kvp_dev`, or `vmbus/hv_kvp` in Linux's dialect. */
  readonly deviceDirectory?: string;
  /** Whose kernel's messages the device nodes speak; FreeBSD's unless told. */
  readonly dialect?: DialectName;
  /**
   * Keeps files of the guest in this directory, which is made if need be: the pools of key-value pairs, and in
   * `etc/rc.conf` and `etc/resolv.conf` the addresses that the host sets, for the next boot.
   */
  readonly rootDirectory?: string;
  /** Leaves the guest's own daemon of key-value pairs out when false, as `hv_kvpd_enable=NO` in `rc.conf` does. */
  readonly keyValueDaemon?: boolean;
  /** Gets each line of dmesg as it is printed. */
  readonly onMessage?: (line: string) => void;
}

/** Where a disk goes. */
export function placement(disk: BootDisk): DiskPlacement {
  if (typeof disk === "string") return { source: { kind: "image", path: disk } };
  return "source" in disk ? disk : { source: disk };
}

/**
 * What a machine has at each boot, and no other machine has meanwhile: its name, or the first image that it writes to. One
 * without either is another machine each time.
 */
export function machineIdentity({ control, disks = [] }: BootOptions): string {
  if (control !== undefined) return `control ${control}`;
  for (const { source } of disks.map(placement))
    if (source.kind === "image" && source.readOnly !== true) return `disk ${resolve(source.path)}`;
  return randomUUID();
}
