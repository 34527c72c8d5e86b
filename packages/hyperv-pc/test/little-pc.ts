import { V86 } from "v86";
import type { Partition, SavedPartition } from "@hyperv-is/hyperv-host";
import { NodeTimers } from "@hyperv-is/platform-node";
import { LINUX_LOAD_PORT } from "../src/firmware/linux-image.js";
import { instantiateEmulator } from "../src/emulator/emulator-instance.js";
import { PcBoard, type SavedBoard } from "../src/emulator/pc-board.js";
import { MachineClock } from "../src/node/machine-clock.js";
import { emulatorModule } from "../src/node/index.js";
import { PROGRAM, bootingBios, type Placed } from "./assembler.js";

/** How a program ended, and what it left. */
export interface LittleRun {
  readonly end: "powered-off" | "halted";
  readonly partition: Partition;
  readonly resets: number;
  /** A word of its memory. */
  readonly word: (address: number) => number;
}

export interface LittlePcOptions {
  /** Entered at each start of the machine, in real mode, with interrupts off and segments at 0. */
  readonly program: Uint8Array;
  readonly placed?: readonly Placed[];
  /** The machine is built, and has not started. */
  readonly built?: (partition: Partition) => void;
}

/** A machine that stands still. */
export interface SavedLittlePc {
  readonly emulator: ArrayBuffer;
  readonly board: SavedBoard;
  readonly host: SavedPartition;
}

/** An emulated PC with a partition, and a program of a few bytes in it. */
export class LittlePc implements AsyncDisposable {
  readonly #emulator: V86;
  readonly #board: PcBoard;
  readonly #ended: Promise<LittleRun["end"]>;
  #partition: Partition | undefined;
  #resets = 0;
  #marks = 0;
  #marked: () => void = () => undefined;

  private constructor(
    { program, placed = [], built }: LittlePcOptions,
    module: WebAssembly.Module,
    loaded: () => void,
  ) {
    let end: (end: LittleRun["end"]) => void;
    let fail: (error: unknown) => void;
    this.#ended = new Promise((resolve, reject) => {
      end = resolve;
      fail = reject;
    });
    this.#board = new PcBoard({
      timers: new NodeTimers(new MachineClock(), () => this.#board.wake()),
      firmwareFiles: [],
      system: () => [...placed, { address: PROGRAM, bytes: program }],
      events: {
        built: (partition) => {
          this.#partition = partition;
          built?.(partition);
        },
        reset: () => this.#resets++,
        poweredOff: () => end("powered-off"),
        halted: () => end("halted"),
        failed: (error) => fail(error),
      },
    });
    this.#emulator = new V86({
      wasm_fn: (imports) => instantiateEmulator(module, imports, this.#board),
      memory_size: 2 ** 21,
      vga_memory_size: 2 ** 20,
      acpi: true,
      bios: { buffer: bootingBios(LINUX_LOAD_PORT).buffer as ArrayBuffer },
      // Without a first drive, and without a BIOS that clears its addresses, the emulator cannot be restored.
      hda: { buffer: new ArrayBuffer(2 ** 20) },
      net_device: {},
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      autostart: false,
    });
    this.#emulator.add_listener("emulator-loaded", loaded);
    this.#emulator.add_listener("serial0-output-byte", () => {
      this.#marks++;
      this.#marked();
    });
  }

  /** Starts a program, or goes on with one. */
  static async start(options: LittlePcOptions, saved?: SavedLittlePc): Promise<LittlePc> {
    const module = await emulatorModule();
    const pc = await new Promise<LittlePc>((resolve) => {
      const made = new LittlePc(options, module, () => resolve(made));
    });
    if (saved !== undefined) {
      await pc.#emulator.restore_state(saved.emulator);
      pc.#board.restore(saved.board, saved.host);
    }
    await pc.#emulator.run();
    return pc;
  }

  get partition(): Partition {
    return this.#partition!;
  }

  /** Resolves when the program has written to its serial port. */
  async marked(): Promise<void> {
    if (this.#marks > 0) return;
    await new Promise<void>((resolve) => (this.#marked = resolve));
  }

  /** Sends a byte to its serial port. */
  type(byte: number): void {
    this.#emulator.serial_send_bytes(0, Uint8Array.of(byte));
  }

  /** Stops the processor, for good. */
  async save(): Promise<SavedLittlePc | undefined> {
    await this.#emulator.stop();
    const saved = this.#board.save();
    return saved && { ...saved, emulator: await this.#emulator.save_state() };
  }

  /** Resolves when the program has switched the machine off, or halted. */
  async ended(): Promise<LittleRun> {
    const end = await this.#ended;
    const { memory } = this.partition;
    return {
      end,
      partition: this.partition,
      resets: this.#resets,
      word: (address) => memory.words[address >>> 2]!,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#emulator.destroy();
  }
}

/** Runs a program until it ends. */
export async function runLittlePc(options: LittlePcOptions): Promise<LittleRun> {
  await using pc = await LittlePc.start(options);
  return await pc.ended();
}
