import {
  GuestMemory,
  Partition,
  type BusOptions,
  type FaultPlanData,
  type SavedPartition,
  type Timers,
} from "@hyperv-is/hyperv-host";
import type { TraceRecorder } from "@hyperv-is/hyperv-host/trace";
import type { PlacedPart } from "../firmware/linux-image.js";
import { LINUX_LOAD_PORT } from "../firmware/linux-image.js";
import { FwCfg, FwCfgPort, type FirmwareFile } from "../firmware/fw-cfg.js";
import { EmulatorError } from "./emulator-error.js";
import type { Board, EmulatorHeap } from "./emulator-instance.js";
import {
  HYPERCALL_CODE,
  HYPERCALL_PORT,
  HypervisorInstructions,
} from "./hypervisor-instructions.js";
import { InterruptControllers } from "./interrupt-controllers.js";
import { LocalApic } from "./local-apic.js";

/** Timers that their owner runs, instead of an event loop. */
export interface PolledTimers extends Timers {
  /** When the next one is due, on their clock; Infinity without any. */
  readonly nextDeadline: number;
  /** Calls back what is due. */
  runDue(): unknown;
}

/** What a guest does to its machine as a whole. */
export interface PcEvents {
  /** Guest memory is there, and the partition: devices may be offered. */
  built(partition: Partition): void;
  /** The guest restarts. */
  reset(): void;
  /** The guest switched the machine off. */
  poweredOff(): void;
  /** The guest halted for ever, with interrupts off. */
  halted(): void;
  failed(error: unknown): void;
}

export interface PcBoardOptions {
  readonly timers: PolledTimers;
  readonly events: PcEvents;
  /** What firmware may read. */
  readonly firmwareFiles: readonly FirmwareFile[];
  /** What goes into memory when the boot ROM asks for it. @param memoryBytes - size of guest memory. */
  readonly system?: (memoryBytes: number) => readonly PlacedPart[];
  readonly bus?: BusOptions;
  readonly faults?: FaultPlanData;
  readonly trace?: TraceRecorder;
  /** Does what has come from elsewhere than the guest and tells nobody. @returns True if it must be asked time and again. */
  readonly elsewhere?: () => boolean;
}

/** What a board knows of its guest, beside the host: plain data. */
export interface SavedBoard {
  /** A 1 for each vector whose requested interrupt will end by itself. */
  readonly autoEoi: Uint8Array;
}

/** The register by which a guest puts the machine to sleep, of the power management that SeaBIOS describes. */
const PM1_CONTROL = 0xb004;
const SLEEP_ENABLE = 0x2000;
const SLEEP_TYPE = 0x1c00;
/** Sleep type of "soft off" in SeaBIOS's tables. */
const SOFT_OFF = 0;

/** Where a guest reads what came in on its first serial port. */
const SERIAL_DATA = 0x3f8;

/** Both count the emulator's milliseconds in millionths: a guest that measures them would measure its load. */
const FREQUENCIES = { tscHz: 1_000_000_000, apicHz: 1_000_000_000 } as const;

/** While something must be asked time and again, an idle guest is not left alone for longer. */
const IDLE_MAX_MS = 1;

/** The one virtual processor of a PC. */
const VP = 0;

/**
 * The board of an emulated PC: what a Hyper-V machine has and an ordinary PC has not. It holds the
 * partition, in the emulator's own thread and on the emulator's own memory, and lends it the emulated
 * processor's instructions and its local APIC.
 */
export class PcBoard implements Board {
  readonly #options: PcBoardOptions;
  readonly #fwCfg: FwCfg;
  /** Vectors whose next interrupt ends by itself. */
  readonly #autoEoi = new Uint8Array(256);
  #parts: Parts | undefined;
  #hasStarted = false;
  #isResetting = false;
  /** Nothing of the guest is to happen any more. */
  #isOff = false;

  constructor(options: PcBoardOptions) {
    this.#options = options;
    this.#fwCfg = new FwCfg(options.firmwareFiles);
  }

  get isReady(): boolean {
    return !this.#isResetting && !this.#isOff;
  }

  /** Lets the host look at once, though the guest may be idle. */
  wake(): void {
    this.#parts?.heap.wake();
  }

  powerOn(heap: EmulatorHeap): void {
    const { timers, bus, faults, trace, events } = this.#options;
    const memory = new GuestMemory(heap.buffer, heap.memoryOffset, heap.memoryBytes);
    const apic = new LocalApic(heap.buffer, heap.apicOffset);
    const controllers = new InterruptControllers(heap.buffer, heap);
    const partition = new Partition({
      memory,
      timers,
      interrupt: (vp, sint, vector) => {
        this.#autoEoi[vector] = partition.isAutoEoi(vp, sint) ? 1 : 0;
        apic.request(vector);
        heap.wake();
      },
      wake: () => heap.wake(),
      writeHypercallPage: (_, address) => {
        memory.bytes.set(HYPERCALL_CODE, address);
        heap.forgetCode(address, address + HYPERCALL_CODE.length);
      },
      frequencies: FREQUENCIES,
      dataWritten: (address, lengthBytes) => heap.forgetCode(address, address + lengthBytes),
      ...(bus && { bus }),
      ...(faults && { faults }),
      ...(trace && { trace }),
    });
    const instructions = new HypervisorInstructions(heap.buffer, partition.processors[VP]!);
    this.#parts = { heap, memory, apic, controllers, partition, instructions };
    events.built(partition);
  }

  /**
   * What board and host know of the guest, whose processor stands still.
   * @returns Undefined while something is in flight.
   */
  save(): { readonly board: SavedBoard; readonly host: SavedPartition } | undefined {
    this.poll();
    const host = this.#isResetting ? undefined : this.#built.partition.save();
    return host && { board: { autoEoi: this.#autoEoi.slice() }, host };
  }

  /** Goes on from there, once the emulator has; the processor has not run yet. Throws `SavedPartitionError`. */
  restore(board: SavedBoard, host: SavedPartition): void {
    this.#autoEoi.set(board.autoEoi);
    const { heap, partition } = this.#built;
    // The emulator keeps that there was input nobody had read, but not the input: a guest would read zeros.
    heap.readPort8(SERIAL_DATA);
    partition.restore(host);
  }

  processorReset(): void {
    // The first reset is the start of the machine.
    if (!this.#hasStarted) {
      this.#hasStarted = true;
      return;
    }
    const { partition, controllers } = this.#built;
    this.#isResetting = true;
    controllers.reset();
    this.#autoEoi.fill(0);
    partition.reset(() => {
      this.#isResetting = false;
    });
    partition.run();
    this.#options.events.reset();
  }

  writePort8(port: number, value: number): boolean {
    switch (port) {
      case HYPERCALL_PORT:
        this.#built.instructions.hypercall();
        return true;
      case LINUX_LOAD_PORT:
        this.#loadSystem();
        return true;
      case FwCfgPort.selector:
        this.#fwCfg.select(value);
        return true;
      default:
        return false;
    }
  }

  writePort16(port: number, value: number): boolean {
    if (port === FwCfgPort.selector) {
      this.#fwCfg.select(value);
      return true;
    }
    if (port !== PM1_CONTROL || (value & (SLEEP_ENABLE | SLEEP_TYPE)) !== (SLEEP_ENABLE | SOFT_OFF))
      return false;
    this.#isOff = true;
    this.#options.events.poweredOff();
    return true;
  }

  readPort8(port: number): number | undefined {
    return port === FwCfgPort.data ? this.#fwCfg.read() : undefined;
  }

  poll(): number {
    const { timers, elsewhere } = this.#options;
    let idleMaxMs = Infinity;
    try {
      const { heap, partition } = this.#built;
      if (heap.buffer.byteLength === 0)
        throw new EmulatorError(
          "ERR_EMULATOR_MEMORY",
          "the emulator's heap has grown beyond what was set aside, and moved: the machine cannot go on",
        );
      timers.runDue();
      if (elsewhere?.() === true) idleMaxMs = IDLE_MAX_MS;
      partition.run();
    } catch (error) {
      this.failed(error);
    }
    return Math.min(idleMaxMs, Math.max(0, timers.nextDeadline - timers.now()));
  }

  deadHalt(): void {
    if (this.#isOff) return;
    this.#isOff = true;
    this.#options.events.halted();
  }

  failed(error: unknown): void {
    if (this.#isOff) return;
    this.#isOff = true;
    this.#options.events.failed(error);
  }

  hv_instruction(instruction: number): number {
    return this.#built.instructions.execute(instruction);
  }

  hv_after_cpuid(leaf: number): void {
    this.#built.instructions.afterCpuid(leaf);
  }

  hv_acknowledge(vector: number): void {
    if (this.#autoEoi[vector] !== 1) return;
    this.#autoEoi[vector] = 0;
    this.#built.apic.endService(vector);
  }

  get #built(): Parts {
    if (this.#parts === undefined) throw new Error("the emulator has no memory yet");
    return this.#parts;
  }

  #loadSystem(): void {
    const { heap, memory } = this.#built;
    for (const { address, bytes } of this.#options.system?.(memory.sizeBytes) ?? []) {
      memory.bytes.set(bytes, address);
      heap.forgetCode(address, address + bytes.byteLength);
    }
  }
}

/** What there is once the emulator has its memory. */
interface Parts {
  readonly heap: EmulatorHeap;
  readonly memory: GuestMemory;
  readonly apic: LocalApic;
  readonly controllers: InterruptControllers;
  readonly partition: Partition;
  readonly instructions: HypervisorInstructions;
}
