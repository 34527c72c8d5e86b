import {
  IntegrationServices,
  adapterOffers,
  carryOutRequest,
  controllerOffers,
  standardDevices,
  type DeviceOffer,
  type Guid,
  type HostStats,
  type CaptureConfig,
  type IntegrationRequest,
  type Partition,
  type Violation,
  type VirtualSwitch,
} from "@hyperv-is/hyperv-host";
import {
  NetworkError,
  NetworkSet,
  TraceFile,
  realTime,
  type AdapterChange,
} from "@hyperv-is/hyperv-host/node";
import type { ControlServer } from "@hyperv-is/hyperv-host/node/control";
import { NodeTimers } from "@hyperv-is/platform-node";
import manifest from "../../package.json" with { type: "json" };
import { V86, type V86Image, type V86Options } from "v86";
import { instantiateEmulator } from "../emulator/emulator-instance.js";
import { PcBoard } from "../emulator/pc-board.js";
import { linuxBootFiles, placeLinux } from "../firmware/linux-image.js";
import { vmbusTable } from "../firmware/vmbus-table.js";
import { PcError } from "../pc-error.js";
import { SerialConsole } from "../serial-console.js";
import type { Drive } from "./drive.js";
import { MachineClock } from "./machine-clock.js";
import { closeAll, closeParts, openParts, type PcOptions, type PcParts } from "./pc-parts.js";
import {
  assertWritable,
  readSnapshot,
  snapshotError,
  writeSnapshot,
  type SavedPc,
} from "./snapshot.js";

const VGA_MEMORY_BYTES = 8 * 2 ** 20;

/** The host's one worker: everything is in one thread. */
const WORKER = 0;

/** How long `save` lets the guest go on until nothing is in flight, in looks and milliseconds between them. */
const SAVE_LOOKS = 250;
const SAVE_PAUSE_MS = 8;

/** How a machine ended. */
export type PcEnd =
  /** The guest switched it off. */
  | "powered-off"
  /** The guest halted for ever. */
  | "halted"
  /** `stop` was called. */
  | "stopped"
  | "failed";

/** The host's side of a machine. */
export interface PcHost {
  /** What the guest did against the protocol. */
  readonly violations: readonly Violation[];
  /** Counters of bus, channels, controllers, disks, network adapters and faults. */
  stats(): HostStats;
  /** Asks the guest's integration components for something. Rejects with `GuestError`. */
  request(request: IntegrationRequest): Promise<unknown>;
  /** Takes a device away, and gives it back after a while if a number is given. @returns False if there is none. */
  rescind(instanceId: Guid, reofferAfterMs?: number): boolean;
  /** Offers a device, such as one that was taken away. Throws if it is offered. */
  offer(device: DeviceOffer): void;
  /** By their names. A program may connect ends of its own, which are called in the guest's thread. */
  readonly switches: ReadonlyMap<string, VirtualSwitch>;
  /** Changes a network adapter while its guest runs. Throws `NetworkError`. */
  changeAdapter(instanceId: Guid, change: AdapterChange): void;
  /** Captures what goes over an adapter's port into a file from now on. Throws `NetworkError`. */
  startCapture(capture: CaptureConfig): void;
  /** Ends the capture of an adapter, if there is one. Throws `NetworkError` if the file could not be written. */
  stopCapture(instanceId: Guid): void;
}

/** How a PC is made, and who is told. */
export interface BootOptions extends PcOptions {
  /** Gets the machine when its processor runs; one that is to be kept as a snapshot has not been kept yet. */
  readonly onRunning?: (machine: PcMachine) => void;
}

/** A PC with a guest in it. */
export class PcMachine implements AsyncDisposable {
  readonly serial: SerialConsole;
  readonly host: PcHost;
  /** Resolves when the machine has ended and its images are closed; rejects with what it failed with. */
  readonly ended: Promise<PcEnd>;
  readonly #parts: PcParts;
  readonly #emulator: V86;
  readonly #board: PcBoard;
  readonly #clock: MachineClock;
  readonly #timers: NodeTimers;
  readonly #trace: TraceFile | undefined;
  #partition: Partition | undefined;
  #network: NetworkSet | undefined;
  #integration: IntegrationServices | undefined;
  #control: ControlServer | undefined;
  #resolveEnded: (end: PcEnd) => void = () => undefined;
  #rejectEnded: (error: unknown) => void = () => undefined;
  #ending: Promise<void> | undefined;
  /** Bytes that the guest has written since the event loop was last free. */
  #written: number[] = [];
  #saving: Promise<unknown> = Promise.resolve();
  #isRestored = false;
  #resets = 0;

  /** @param timeMs - of a machine that goes on. @param started - called when the emulator is there, or has failed. */
  private constructor(parts: PcParts, timeMs: number, started: (error?: Error) => void) {
    this.#parts = parts;
    this.ended = new Promise((resolve, reject) => {
      this.#resolveEnded = resolve;
      this.#rejectEnded = reject;
    });
    // Whoever does not look at `ended` learns of a failure by its other calls.
    this.ended.catch(() => undefined);
    this.#clock = new MachineClock(timeMs);
    const timers = new NodeTimers(this.#clock, () => this.#board.wake());
    this.#timers = timers;
    this.#trace = parts.options.trace && TraceFile.create(parts.options.trace, timers);
    this.#trace?.follow(timers);
    this.#board = this.#makeBoard(timers);
    this.#emulator = new V86(this.#settings(started));
    this.#emulator.add_listener("emulator-loaded", () => started());
    this.serial = new SerialConsole((bytes) => this.#emulator.serial_send_bytes(0, bytes));
    if (parts.options.onConsole) this.serial.subscribe(parts.options.onConsole);
    this.#emulator.add_listener("serial0-output-byte", (byte) => this.#serialOutput(byte));
    this.host = this.#hostFace();
  }

  /** Starts a machine. See `bootPc`. */
  static async start(options: BootOptions): Promise<PcMachine> {
    const parts = await openParts(options);
    const { snapshot } = options;
    let machine: PcMachine | undefined;
    try {
      const saved = snapshot && (await readSnapshot(snapshot.path, parts));
      if (snapshot !== undefined && saved === undefined) await assertWritable(snapshot.path);
      machine = await new Promise<PcMachine>((resolve, reject) => {
        const made = new PcMachine(parts, saved?.timeMs ?? 0, (error) => {
          if (error === undefined) resolve(made);
          else reject(error);
        });
      });
      await machine.#openNetwork();
      if (snapshot !== undefined && saved !== undefined)
        await machine.#restore(snapshot.path, saved);
      await machine.#listen();
      await machine.#emulator.run();
      options.onRunning?.(machine);
      if (snapshot !== undefined && saved === undefined) await machine.#keep(snapshot);
      return machine;
    } catch (error) {
      if (machine === undefined) await closeParts(parts);
      else await machine.stop().catch(() => undefined);
      throw error;
    }
  }

  /** True if the machine was not booted but goes on from a snapshot. */
  get isRestored(): boolean {
    return this.#isRestored;
  }

  /** How often the guest has restarted. */
  get resets(): number {
    return this.#resets;
  }

  /**
   * Everything of the machine, the contents of its disks apart; it goes on afterwards. A guest that uses the
   * disks meanwhile is let go on until nothing is in flight.
   *
   * Rejects with `ERR_BUSY` if that does not come, `ERR_POWERED_OFF` if the machine ends meanwhile.
   */
  save(): Promise<SavedPc> {
    const saved = this.#saving.then(() => this.#save());
    this.#saving = saved.catch(() => undefined);
    return saved;
  }

  /** Switches the machine off, whatever its guest is doing; images are closed when this resolves. Idempotent. */
  async stop(): Promise<void> {
    await this.#end("stopped");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #makeBoard(timers: NodeTimers): PcBoard {
    const { options, linux, disks, controllers } = this.#parts;
    return new PcBoard({
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
      elsewhere: () => this.#pollNetwork(),
      events: {
        built: (partition) => {
          this.#partition = partition;
          disks.serve(partition.workers[WORKER]!);
          this.#integration = new IntegrationServices({ timers, realTime });
          this.#integration.serve(partition.workers[WORKER]!);
          for (const device of standardDevices(WORKER)) partition.offer(device);
          for (const device of controllerOffers(controllers, WORKER)) partition.offer(device);
        },
        reset: () => {
          this.#resets++;
        },
        poweredOff: () => void this.#end("powered-off"),
        halted: () => void this.#end("halted"),
        failed: (error) => void this.#end("failed", error),
      },
    });
  }

  #settings(started: (error: Error) => void): V86Options {
    const { module, memoryBytes, firmware, cdrom, bootDisk } = this.#parts;
    return {
      wasm_fn: async (imports) => {
        try {
          return await instantiateEmulator(module, imports, this.#board);
        } catch (error) {
          started(error as Error);
          return new Promise(() => undefined);
        }
      },
      memory_size: memoryBytes,
      vga_memory_size: VGA_MEMORY_BYTES,
      acpi: true,
      bios: { buffer: arrayBuffer(firmware.bios) },
      vga_bios: { buffer: arrayBuffer(firmware.vgaBios) },
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

  /** Makes the network of the partition that is there now, and offers its adapters. */
  async #openNetwork(): Promise<void> {
    const { network } = this.#parts.options;
    if (network === undefined) return;
    const partition = this.#running();
    this.#network = await NetworkSet.open(network, this.#timers, partition.faultPlan());
    this.#network.serve(partition.workers[WORKER]!);
    for (const device of adapterOffers(network.adapters, WORKER)) partition.offer(device);
  }

  /** Sockets say when there is something; TAPs have to be asked. @returns True if there are any. */
  #pollNetwork(): boolean {
    this.#network?.poll();
    return (this.#network?.files.length ?? 0) > 0;
  }

  async #listen(): Promise<void> {
    const { options, memoryBytes } = this.#parts;
    if (options.control === undefined) return;
    const { server } = this.#running();
    const control = await import("@hyperv-is/hyperv-host/node/control");
    this.#control = await control.ControlServer.listen(options.control, {
      program: `hyperv-pc ${manifest.version}`,
      processorCount: 1,
      memoryBytes,
      clock: this.#clock,
      startMs: 0,
      server,
      stats: () => this.host.stats(),
      request: (request) => this.host.request(request),
    });
  }

  /** The console gets what the guest writes in one slice of the emulator as one piece. */
  #serialOutput(byte: number): void {
    this.#written.push(byte);
    if (this.#written.length > 1) return;
    queueMicrotask(() => this.#flushSerial());
  }

  #flushSerial(): void {
    if (this.#written.length > 0) this.serial.received(Uint8Array.from(this.#written));
    this.#written = [];
  }

  async #restore(path: string, saved: SavedPc): Promise<void> {
    try {
      await this.#emulator.restore_state(saved.emulator);
      this.#board.restore(saved.board, saved.host);
    } catch (cause) {
      throw snapshotError(
        path,
        `the machine does not go on from it (${(cause as Error).message})`,
        cause,
      );
    }
    this.serial.restore(saved.transcript);
    this.#isRestored = true;
  }

  /** Waits until the guest says that it is to be saved, and keeps it. */
  async #keep({ path, at }: NonNullable<PcOptions["snapshot"]>): Promise<void> {
    try {
      await this.serial.waitFor(at);
    } catch (cause) {
      // Why it has ended is better known there.
      const end = await this.ended;
      throw new PcError(
        "ERR_POWERED_OFF",
        `no snapshot was made: the machine ended (${end}) before its guest wrote ${String(at)}`,
        { cause },
      );
    }
    await writeSnapshot(path, this.#parts, await this.save());
    this.serial.rewind();
  }

  async #save(): Promise<SavedPc> {
    for (let look = 0; look < SAVE_LOOKS; look++) {
      if (this.#ending !== undefined)
        throw new PcError("ERR_POWERED_OFF", "the machine has ended before it could be saved");
      if (this.#network?.stats().some(({ channels }) => channels > 0) === true)
        throw new PcError(
          "ERR_BUSY",
          "a machine is not saved while its guest's driver has a network adapter open: save it before, or without --nic",
        );
      await this.#emulator.stop();
      try {
        const state = this.#board.save();
        this.#flushSerial();
        if (state !== undefined)
          return {
            ...state,
            emulator: await this.#emulator.save_state(),
            timeMs: this.#clock.now(),
            transcript: this.serial.transcript,
          };
      } finally {
        if (!this.#hasEnded()) await this.#emulator.run();
      }
      await new Promise((resolve) => setTimeout(resolve, SAVE_PAUSE_MS));
    }
    throw new PcError(
      "ERR_BUSY",
      `something has been in flight between host and guest for ${(SAVE_LOOKS * SAVE_PAUSE_MS) / 1000} s: the machine cannot be saved`,
    );
  }

  #hasEnded(): boolean {
    return this.#ending !== undefined;
  }

  #end(end: PcEnd, error?: unknown): Promise<void> {
    this.#ending ??= this.#shutDown(end, error);
    return this.#ending;
  }

  async #shutDown(end: PcEnd, failure: unknown): Promise<void> {
    const { disks, cdrom, bootDisk } = this.#parts;
    const errors: unknown[] = end === "failed" ? [failure] : [];
    this.#control?.close();
    await this.#saving;
    await this.#emulator.stop();
    await this.#emulator.destroy();
    this.#flushSerial();
    try {
      await closeAll([this.#network, disks, cdrom, bootDisk, this.#trace]);
    } catch (error) {
      errors.push(error);
    }
    this.serial.closed(new PcError("ERR_POWERED_OFF", `the machine has ended: ${end}`));
    if (errors.length === 0) {
      this.#resolveEnded(end);
      return;
    }
    this.#rejectEnded(errors[0]);
    if (end === "stopped") throw errors[0];
  }

  #running(): Partition {
    if (this.#partition === undefined) throw new Error("the machine has not started");
    return this.#partition;
  }

  #components(): IntegrationServices {
    if (this.#integration === undefined) throw new Error("the machine has not started");
    return this.#integration;
  }

  #hostFace(): PcHost {
    const partition = (): Partition => this.#running();
    const network = (): NetworkSet => {
      if (this.#network === undefined)
        throw new NetworkError("ERR_NETWORK", "the machine has no network");
      return this.#network;
    };
    return {
      get violations() {
        return partition().violations.list;
      },
      stats: () => ({
        ...partition().stats(),
        controllers: this.#parts.disks.stats(),
        adapters: this.#network?.stats() ?? [],
        integration: this.#components().stats,
      }),
      request: (request) =>
        new Promise((resolve, reject) =>
          carryOutRequest(this.#components(), request, (error, result) =>
            error === undefined ? resolve(result) : reject(error),
          ),
        ),
      rescind: (instanceId, reofferAfterMs) => partition().rescind(instanceId, reofferAfterMs),
      offer: (device) => partition().offer(device),
      get switches() {
        return network().switches;
      },
      changeAdapter: (instanceId, change) => network().change(instanceId, change),
      startCapture: (capture) => network().startCapture(capture),
      stopCapture: (instanceId) => network().stopCapture(instanceId),
    };
  }
}

/** The emulator takes any object of this shape for an image, but its declaration knows only its own. */
function driveImage(drive: Drive): V86Image {
  return drive as unknown as V86Image;
}

function arrayBuffer(bytes: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(bytes.byteLength);
  new Uint8Array(copy).set(bytes);
  return copy;
}

/**
 * Boots a PC on the embedded Hyper-V host; resolves when its processor runs, or with `snapshot` when it is
 * where that was or will be taken.
 *
 * ```ts
 * await using pc = await bootPc({ kernel: "vmlinuz", initrd: "initrd.gz" });
 * await pc.serial.waitFor("login: ");
 * ```
 *
 * Rejects with `PcError`, `EmulatorError`, `DiskError` when an image cannot be attached, `NetworkError` when the
 * network cannot be made, or `ControlError` when the control socket cannot be made.
 */
export function bootPc(options: BootOptions): Promise<PcMachine> {
  return PcMachine.start(options);
}
