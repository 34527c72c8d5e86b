import { V86 } from "v86";
import { NodeClock, NodeTimers } from "@hyperv-is/platform-node";
import type { Partition } from "@hyperv-is/hyperv-host";
import { LINUX_LOAD_PORT } from "../src/firmware/linux-image.js";
import { instantiateEmulator } from "../src/emulator/emulator-instance.js";
import { PcBoard } from "../src/emulator/pc-board.js";
import { emulatorModule } from "../src/node/index.js";
import { PROGRAM, bootingBios, type Placed } from "./assembler.js";

/** How the program ended, and what it left. */
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

/** Runs a program of a few bytes on an emulated PC with a partition, until it switches the machine off. */
export async function runLittlePc(options: LittlePcOptions): Promise<LittleRun> {
  const { program, placed = [], built } = options;
  const module = await emulatorModule();
  let partition: Partition | undefined;
  let resets = 0;
  let emulator: V86 | undefined;
  try {
    const end = await new Promise<LittleRun["end"]>((resolve, reject) => {
      const board = new PcBoard({
        timers: new NodeTimers(new NodeClock(), () => board.wake()),
        firmwareFiles: [],
        system: () => [...placed, { address: PROGRAM, bytes: program }],
        events: {
          built: (made) => {
            partition = made;
            built?.(made);
          },
          reset: () => resets++,
          poweredOff: () => resolve("powered-off"),
          halted: () => resolve("halted"),
          failed: reject,
        },
      });
      emulator = new V86({
        wasm_fn: (imports) => instantiateEmulator(module, imports, board),
        memory_size: 2 ** 21,
        vga_memory_size: 2 ** 20,
        acpi: true,
        bios: { buffer: bootingBios(LINUX_LOAD_PORT).buffer as ArrayBuffer },
        net_device: {},
        disable_keyboard: true,
        disable_mouse: true,
        disable_speaker: true,
        autostart: true,
      });
    });
    const made = partition!;
    return { end, partition: made, resets, word: (address) => made.memory.words[address >>> 2]! };
  } finally {
    await emulator?.destroy();
  }
}
