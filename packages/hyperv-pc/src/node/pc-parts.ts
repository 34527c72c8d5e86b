import { readFile } from "node:fs/promises";
import {
  placeDisks,
  type BusOptions,
  type ControllerConfig,
  type FaultPlanData,
  type NetworkConfig,
} from "@hyperv-is/hyperv-host";
import { DiskSet, type TraceFileOptions } from "@hyperv-is/hyperv-host/node";
import type { EmulatorModule } from "../emulator/emulator-instance.js";
import { cpioArchive } from "../firmware/cpio.js";
import { placeLinux, type LinuxBoot } from "../firmware/linux-image.js";
import { vmbusTable } from "../firmware/vmbus-table.js";
import { PcError } from "../pc-error.js";
import { Drive } from "./drive.js";
import { readFirmware, type Firmware } from "./firmware-files.js";
import { emulatorModule } from "./module-cache.js";

const MEGABYTE = 2 ** 20;
const DEFAULT_MEMORY_BYTES = 256 * MEGABYTE;
const MIN_MEMORY_BYTES = 64 * MEGABYTE;
const MAX_MEMORY_BYTES = 1024 * MEGABYTE;

/** Where the console of a Linux guest is, unless its command line says. */
const CONSOLE = "console=ttyS0";

/** How a PC is made. */
export interface PcOptions {
  /** Path of a 32-bit Linux kernel image. */
  readonly kernel?: string;
  /** Path of its initial file system. */
  readonly initrd?: string;
  /** Command line of the kernel; a console on the serial port is added if it names none. */
  readonly append?: string;
  /** SCSI controllers with their disks, as `placeDisks` makes them; one without disks unless given. */
  readonly controllers?: readonly ControllerConfig[];
  /** Switches and network adapters, as `placeNics` makes them; none unless given. Sockets are served in the guest's thread. */
  readonly network?: NetworkConfig;
  /** Guest memory, whole MiB from 64 to 1024; 256 MiB unless told. */
  readonly memoryBytes?: number;
  /** How the host is to misbehave; what happens after a time counts from when the machine starts or goes on. */
  readonly faults?: FaultPlanData;
  /** What the host's bus speaks. */
  readonly bus?: BusOptions;
  /** A file in which to record what host and guest exchange. */
  readonly trace?: TraceFileOptions;
  /** Makes a control socket for `hyperv-host`: the name of the machine, or the path of the socket. */
  readonly control?: string;
  /** Path of a CD-ROM image, to boot from without a kernel and a disk to boot from. */
  readonly cdrom?: string;
  /** Path of a disk image (VHD, VHDX, raw) to boot from: the PC's own hard disk, not one of Hyper-V. */
  readonly bootDisk?: string;
  /** Directory with SeaBIOS. */
  readonly bios?: string;
  /** Who tells a guest that there is a VMBus: the firmware, or for Linux its initrd. */
  readonly vmbusTable?: "firmware" | "initrd";
  /** Gets what the guest writes to its serial console, from the first byte on; a restored one goes on writing. */
  readonly onConsole?: (bytes: Uint8Array) => void;
  /** Keeps the booted machine, so that the next one starts from there. */
  readonly snapshot?: SnapshotOptions;
}

/** Where a machine is kept, and when. */
export interface SnapshotOptions {
  /** A file: the machine goes on from it if it is there and fits, and is saved to it otherwise. */
  readonly path: string;
  /** What the guest writes to its serial console when it is to be saved. */
  readonly at: string | RegExp;
}

/** What a machine is made of, all of it read and opened. */
export interface PcParts {
  readonly options: PcOptions;
  readonly memoryBytes: number;
  readonly controllers: readonly ControllerConfig[];
  readonly module: EmulatorModule;
  readonly firmware: Firmware;
  /** What the boot ROM boots; undefined to boot from a drive. */
  readonly linux: LinuxBoot | undefined;
  readonly disks: DiskSet;
  readonly cdrom: Drive | undefined;
  readonly bootDisk: Drive | undefined;
}

/** Closes everything that a machine has open; rejects with the first error after all were tried. */
export function closeParts({ disks, cdrom, bootDisk }: PcParts): Promise<void> {
  return closeAll([disks, cdrom, bootDisk]);
}

/** Something of a machine that is open. */
interface Closable {
  close(): void | Promise<void>;
}

/** Closes what is there; rejects with the first error after all were tried. */
export async function closeAll(parts: readonly (Closable | undefined)[]): Promise<void> {
  const errors: unknown[] = [];
  for (const part of parts) {
    try {
      await part?.close();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/**
 * Reads and opens what the options name.
 * Rejects with `PcError`, `EmulatorError` or `DiskError`; nothing stays open then.
 */
export async function openParts(options: PcOptions): Promise<PcParts> {
  const memoryBytes = memoryOf(options);
  const linux = await readLinux(options, memoryBytes);
  const [firmware, module] = await Promise.all([readFirmware(options.bios), emulatorModule()]);
  const opened: Closable[] = [];
  const open = <Medium extends Closable>(medium: Medium): Medium => {
    opened.push(medium);
    return medium;
  };
  try {
    const { controllers = placeDisks([]), cdrom, bootDisk } = options;
    return {
      options,
      memoryBytes,
      controllers,
      module,
      firmware,
      linux,
      disks: open(await DiskSet.open(controllers)),
      cdrom: cdrom === undefined ? undefined : open(Drive.cdrom(cdrom)),
      bootDisk: bootDisk === undefined ? undefined : open(await Drive.disk(bootDisk)),
    };
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

function memoryOf({ memoryBytes = DEFAULT_MEMORY_BYTES }: PcOptions): number {
  const fits = memoryBytes >= MIN_MEMORY_BYTES && memoryBytes <= MAX_MEMORY_BYTES;
  if (!fits || memoryBytes % MEGABYTE !== 0)
    throw new PcError("ERR_MEMORY", "memory must be whole MiB, from 64M to 1024M");
  return memoryBytes;
}

async function readLinux(options: PcOptions, memoryBytes: number): Promise<LinuxBoot | undefined> {
  const { kernel, initrd, append = "" } = options;
  if (kernel === undefined) {
    if (initrd !== undefined || options.append !== undefined || options.vmbusTable === "initrd")
      throw new PcError("ERR_BOOT_OPTIONS", "an initrd and a command line belong to a kernel");
    return undefined;
  }
  const image = await readInput(kernel);
  const files = initrd === undefined ? undefined : await readInput(initrd);
  const linux: LinuxBoot = {
    kernel: image,
    commandLine: /(^| )console=/.test(append) ? append : `${CONSOLE} ${append}`.trim(),
    ...initrdOf(files, options.vmbusTable === "initrd"),
  };
  // Fails now, not in the middle of the boot.
  placeLinux(linux, memoryBytes);
  return linux;
}

function initrdOf(
  files: Uint8Array | undefined,
  withTable: boolean,
): { readonly initrd?: Uint8Array } {
  if (!withTable) return files === undefined ? {} : { initrd: files };
  const table = cpioArchive([{ path: "kernel/firmware/acpi/vmbus.aml", bytes: vmbusTable() }]);
  const initrd = new Uint8Array(table.byteLength + (files?.byteLength ?? 0));
  initrd.set(table);
  if (files !== undefined) initrd.set(files, table.byteLength);
  return { initrd };
}

async function readInput(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new PcError("ERR_FILE", `${path}: ${(cause as Error).message}`, { cause });
  }
}
