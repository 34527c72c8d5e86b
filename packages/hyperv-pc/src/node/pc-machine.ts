import { readFile } from "node:fs/promises";
import {
  controllerOffers,
  placeDisks,
  standardDevices,
  type BusOptions,
  type ControllerConfig,
  type ControllerStats,
  type DeviceOffer,
  type FaultPlanData,
  type Guid,
  type Partition,
  type PartitionStats,
  type Violation,
} from "@hyperv-is/hyperv-host";
import { DiskSet, TraceFile, type TraceFileOptions } from "@hyperv-is/hyperv-host/node";
import { NodeClock, NodeTimers } from "@hyperv-is/platform-node";
import { V86, type V86Image, type V86Options } from "v86";
import { instantiateEmulator } from "../emulator/emulator-instance.js";
import { PcBoard } from "../emulator/pc-board.js";
import { cpioArchive } from "../firmware/cpio.js";
import { linuxBootFiles, placeLinux, type LinuxBoot } from "../firmware/linux-image.js";
import { vmbusTable } from "../firmware/vmbus-table.js";
import { PcError } from "../pc-error.js";
import { SerialConsole } from "../serial-console.js";
import { Drive } from "./drive.js";
import { readFirmware, type Firmware } from "./firmware-files.js";
import { emulatorModule } from "./module-cache.js";

const MEGABYTE = 2 ** 20;
const DEFAULT_MEMORY_BYTES = 256 * MEGABYTE;
const MIN_MEMORY_BYTES = 64 * MEGABYTE;
const MAX_MEMORY_BYTES = 1024 * MEGABYTE;
const VGA_MEMORY_BYTES = 8 * MEGABYTE;

/** Where the console of a Linux guest is, unless its command line says. */
const CONSOLE = "console=ttyS0";

/** The host's one worker: everything is in one thread. */
const WORKER = 0;

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
  /** Guest memory, whole MiB from 64 to 1024; 256 MiB unless told. */
  readonly memoryBytes?: number;
  /** How the host is to misbehave. */
  readonly faults?: FaultPlanData;
  /** What the host's bus speaks. */
  readonly bus?: BusOptions;
  /** A file in which to record what host and guest exchange. */
  readonly trace?: TraceFileOptions;
  /** Path of a CD-ROM image, to boot from without a kernel and a disk to boot from. */
  readonly cdrom?: string;
  /** Path of a disk image (VHD, VHDX, raw) to boot from: the PC's own hard disk, not one of Hyper-V. */
  readonly bootDisk?: string;
  /** Directory with SeaBIOS. */
  readonly bios?: string;
  /** Who tells a guest that there is a VMBus: the firmware, or for Linux its initrd. */
  readonly vmbusTable?: "firmware" | "initrd";
}

/** How a machine ended. */
export type PcEnd =
  /** The guest switched it off. */
  | "powered-off"
  /** The guest halted for ever. */
  | "halted"
  /** `stop` was called. */
  | "stopped"
  | "failed";

/** The host as an administrator sees it. */
export interface PcStats extends PartitionStats {
  readonly controllers: readonly ControllerStats[];
}

/** The host's side of a machine. */
export interface PcHost {
  /** What the guest did against the protocol. */
  readonly violations: readonly Violation[];
  /** Counters of bus, channels, controllers and disks. */
  stats(): PcStats;
  /** Takes a device away, and gives it back after a while if a number is given. @returns False if there is none. */
  rescind(instanceId: Guid, reofferAfterMs?: number): boolean;
  /** Offers a device, such as one that was taken away. Throws if it is offered. */
  offer(device: DeviceOffer): void;
}

/** What a machine is made of, all of it read and opened. */
interface Parts {
  readonly options: PcOptions;
  readonly module: WebAssembly.Module;
  readonly firmware: Firmware;
  /** What the boot ROM boots; undefined to boot from a drive. */
  readonly linux: LinuxBoot | undefined;
  readonly disks: DiskSet;
  readonly cdrom: Drive | undefined;
  readonly bootDisk: Drive | undefined;
}

/** A PC with a guest in it. */
export class PcMachine implements AsyncDisposable {
  readonly serial: SerialConsole;
  readonly host: PcHost;
  /** Resolves when the machine has ended and its images are closed; rejects with what it failed with. */
  readonly ended: Promise<PcEnd>;
  readonly #parts: Parts;
  readonly #emulator: V86;
  readonly #board: PcBoard;
  readonly #trace: TraceFile | undefined;
  #partition: Partition | undefined;
  #resolveEnded: (end: PcEnd) => void = () => undefined;
  #rejectEnded: (error: unknown) => void = () => undefined;
  #ending: Promise<void> | undefined;
  #resets = 0;

  private constructor(parts: Parts, started: (error?: Error) => void) {
    const { options, disks, firmware, linux } = parts;
    this.#parts = parts;
    this.ended = new Promise((resolve, reject) => {
      this.#resolveEnded = resolve;
      this.#rejectEnded = reject;
    });
    // Whoever does not look at `ended` learns of a failure by its other calls.
    this.ended.catch(() => undefined);
    const timers = new NodeTimers(new NodeClock(), () => this.#board.wake());
    this.#trace = options.trace && TraceFile.create(options.trace, timers);
    this.#trace?.follow(timers);
    this.#board = new PcBoard({
      timers,
      firmwareFiles: [
        ...(linux === undefined ? [] : linuxBootFiles()),
        ...(options.vmbusTable === "initrd"
          ? []
          : [{ name: "acpi/vmbus.aml", bytes: vmbusTable() }]),
      ],
      ...(linux && { system: (bytes) => placeLinux(linux, bytes) }),
      ...(options.bus && { bus: options.bus }),
      ...(options.faults && { faults: options.faults }),
      ...(this.#trace && { trace: this.#trace.recorder }),
      events: {
        built: (partition) => {
          this.#partition = partition;
          disks.serve(partition.workers[WORKER]!);
          for (const device of devicesOf(options)) partition.offer(device);
        },
        reset: () => {
          this.#resets++;
        },
        poweredOff: () => void this.#end("powered-off"),
        halted: () => void this.#end("halted"),
        failed: (error) => void this.#end("failed", error),
      },
    });
    this.#emulator = new V86(this.#settings(firmware, started));
    this.#emulator.add_listener("emulator-loaded", () => started());
    this.serial = new SerialConsole((bytes) => this.#emulator.serial_send_bytes(0, bytes));
    this.#emulator.add_listener("serial0-output-byte", (value) =>
      this.serial.received(new Uint8Array([value])),
    );
    this.host = this.#hostFace();
  }

  /** Starts a machine. See `bootPc`. */
  static async start(options: PcOptions): Promise<PcMachine> {
    checkMemory(options.memoryBytes);
    const linux = await readLinux(options);
    const [firmware, module] = await Promise.all([readFirmware(options.bios), emulatorModule()]);
    const opened: { close(): void }[] = [];
    const open = <Medium extends { close(): void }>(medium: Medium): Medium => {
      opened.push(medium);
      return medium;
    };
    try {
      const { controllers = placeDisks([]), cdrom, bootDisk } = options;
      const parts: Parts = {
        options,
        module,
        firmware,
        linux,
        disks: open(await DiskSet.open(controllers)),
        cdrom: cdrom === undefined ? undefined : open(Drive.cdrom(cdrom)),
        bootDisk: bootDisk === undefined ? undefined : open(await Drive.disk(bootDisk)),
      };
      const machine = await new Promise<PcMachine>((resolve, reject) => {
        const made = new PcMachine(parts, (error) => {
          if (error === undefined) resolve(made);
          else reject(error);
        });
      });
      await machine.#emulator.run();
      return machine;
    } catch (error) {
      for (const medium of opened) medium.close();
      throw error;
    }
  }

  /** How often the guest has restarted. */
  get resets(): number {
    return this.#resets;
  }

  /** Switches the machine off, whatever its guest is doing; images are closed when this resolves. Idempotent. */
  async stop(): Promise<void> {
    await this.#end("stopped");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #settings({ bios, vgaBios }: Firmware, started: (error: Error) => void): V86Options {
    const { options, module, cdrom, bootDisk } = this.#parts;
    return {
      wasm_fn: async (imports) => {
        try {
          return await instantiateEmulator(module, imports, this.#board);
        } catch (error) {
          started(error as Error);
          return new Promise(() => undefined);
        }
      },
      memory_size: options.memoryBytes ?? DEFAULT_MEMORY_BYTES,
      vga_memory_size: VGA_MEMORY_BYTES,
      acpi: true,
      bios: { buffer: arrayBuffer(bios) },
      vga_bios: { buffer: arrayBuffer(vgaBios) },
      ...(cdrom && { cdrom: driveImage(cdrom) }),
      ...(bootDisk && { hda: driveImage(bootDisk) }),
      // No network card of the PC: a guest of Hyper-V has those of its host.
      net_device: {},
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      autostart: false,
    };
  }

  #end(end: PcEnd, error?: unknown): Promise<void> {
    this.#ending ??= this.#shutDown(end, error);
    return this.#ending;
  }

  async #shutDown(end: PcEnd, failure: unknown): Promise<void> {
    const { disks, cdrom, bootDisk } = this.#parts;
    const errors: unknown[] = end === "failed" ? [failure] : [];
    await this.#emulator.stop();
    await this.#emulator.destroy();
    // Everything is closed in any case; the first error counts.
    for (const part of [disks, cdrom, bootDisk, this.#trace]) {
      try {
        part?.close();
      } catch (error) {
        errors.push(error);
      }
    }
    this.serial.closed(new PcError("ERR_POWERED_OFF", `the machine has ended: ${end}`));
    if (errors.length === 0) {
      this.#resolveEnded(end);
      return;
    }
    this.#rejectEnded(errors[0]);
    if (end === "stopped") throw errors[0];
  }

  #hostFace(): PcHost {
    const partition = (): Partition => {
      if (this.#partition === undefined) throw new Error("the machine has not started");
      return this.#partition;
    };
    return {
      get violations() {
        return partition().violations.list;
      },
      stats: () => ({ ...partition().stats(), controllers: this.#parts.disks.stats() }),
      rescind: (instanceId, reofferAfterMs) => partition().rescind(instanceId, reofferAfterMs),
      offer: (device) => partition().offer(device),
    };
  }
}

/** What the host offers to a machine. */
function devicesOf({ controllers = placeDisks([]) }: PcOptions): DeviceOffer[] {
  return [...standardDevices(WORKER), ...controllerOffers(controllers, WORKER)];
}

/** The emulator takes any object of this shape for an image, but its declaration knows only its own. */
function driveImage(drive: Drive): V86Image {
  return drive as unknown as V86Image;
}

function checkMemory(memoryBytes = DEFAULT_MEMORY_BYTES): void {
  const fits = memoryBytes >= MIN_MEMORY_BYTES && memoryBytes <= MAX_MEMORY_BYTES;
  if (!fits || memoryBytes % MEGABYTE !== 0)
    throw new PcError("ERR_MEMORY", "memory must be whole MiB, from 64M to 1024M");
}

/** What the boot ROM will boot; undefined to boot from a drive. */
async function readLinux(options: PcOptions): Promise<LinuxBoot | undefined> {
  const { kernel, initrd, append = "", memoryBytes = DEFAULT_MEMORY_BYTES } = options;
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

function arrayBuffer(bytes: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(bytes.byteLength);
  new Uint8Array(copy).set(bytes);
  return copy;
}

/**
 * Boots a PC on the embedded Hyper-V host; resolves when its processor runs.
 *
 * ```ts
 * await using pc = await bootPc({ kernel: "vmlinuz", initrd: "initrd.gz" });
 * await pc.serial.waitFor("login: ");
 * ```
 *
 * Rejects with `PcError`, `EmulatorError`, or `DiskError` when an image cannot be attached.
 */
export function bootPc(options: PcOptions): Promise<PcMachine> {
  return PcMachine.start(options);
}
