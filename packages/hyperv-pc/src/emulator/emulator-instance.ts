import { EmulatorError } from "./emulator-error.js";
import type { HookImports } from "./hooks.js";
import type { InterruptControllerOffsets } from "./interrupt-controllers.js";

/**
 * A compiled `WebAssembly.Module`, by a name of our own: programs without the DOM library have no
 * declaration of the real one.
 */
export interface EmulatorModule {
  readonly [Symbol.toStringTag]: "WebAssembly.Module";
}

/** What the module imports, or exports, by name. */
export type EmulatorNames = Record<string, ((...args: never[]) => unknown) | object | number>;

/** What the emulated PC asks of the board that it is plugged into. */
export interface Board extends HookImports {
  /** The heap is there, and guest memory in it; once, before anything else. */
  powerOn(heap: EmulatorHeap): void;
  /** The processor is reset: at power-on and at each reboot. No instruction of the guest runs before it returns. */
  processorReset(): void;
  /** A byte is written to an I/O port. @returns True if the port is the board's. */
  writePort8(port: number, value: number): boolean;
  writePort16(port: number, value: number): boolean;
  /** A byte is read from an I/O port. @returns It, or undefined if the port is not the board's. */
  readPort8(port: number): number | undefined;
  /**
   * Called between slices of emulated instructions, and while the processor is halted: interrupts that
   * are requested here are taken at once.
   *
   * @returns Milliseconds until the board wants to be called again even if nothing happens.
   */
  poll(): number;
  /** False while the processor must not run: its guest's memory is still in use. */
  readonly isReady: boolean;
  /** The processor was halted with interrupts off, for ever. */
  deadHalt(): void;
  /** The emulator or the board failed; the processor runs no more. */
  failed(error: unknown): void;
}

/** The emulator's heap, with guest memory in it. */
export interface EmulatorHeap extends InterruptControllerOffsets {
  readonly buffer: ArrayBuffer;
  /** Byte offset of guest physical address 0. */
  readonly memoryOffset: number;
  readonly memoryBytes: number;
  /** Forgets compiled code of a range of guest memory that somebody else than the processor wrote. */
  forgetCode(start: number, end: number): void;
  /** Reads a port of the PC as its processor would. */
  readPort8(port: number): number;
  /** Ends an idle emulator's wait: `Board.poll` follows soon. */
  wake(): void;
}

/**
 * Set aside when the machine starts, so that the heap never grows while it runs: growing moves it, and
 * everybody's views of guest memory with it. Untouched pages cost nothing.
 */
const HEADROOM_BYTES = 192 * 2 ** 20;

/** How often a processor that must not run looks whether it may. */
const HELD_POLL_MS = 1;

/** Exports of the module that are used here, by the emulator's own names. */
interface ModuleExports {
  readonly memory: { readonly buffer: ArrayBuffer };
  allocate_memory(bytes: number): number;
  v86_malloc(bytes: number): number;
  v86_free(address: number): void;
  get_apic_addr(): number;
  get_ioapic_addr(): number;
  main_loop(): number;
  jit_dirty_cache(start: number, end: number): void;
  reset_cpu(): void;
}

/** Imports of the module that are wrapped here. */
interface ModuleImports {
  readonly io_port_write8: (port: number, value: number) => void;
  readonly io_port_write16: (port: number, value: number) => void;
  readonly io_port_read8: (port: number) => number;
  readonly run_hardware_timers: (acpiEnabled: boolean, now: number) => number;
  readonly cpu_event_halt: () => void;
  readonly stop_idling: () => void;
}

const NEEDED_EXPORTS = [
  "memory",
  "allocate_memory",
  "v86_malloc",
  "v86_free",
  "get_apic_addr",
  "get_ioapic_addr",
  "main_loop",
  "jit_dirty_cache",
  "reset_cpu",
] as const;
const NEEDED_IMPORTS = [
  "io_port_write8",
  "io_port_write16",
  "io_port_read8",
  "run_hardware_timers",
  "cpu_event_halt",
  "stop_idling",
] as const;

/**
 * Instantiates the patched module between the emulator and a board: for the emulator's option `wasm_fn`.
 * Uses imports and exports of the module only, no name inside the emulator.
 *
 * Rejects with `ERR_EMULATOR_VERSION` if one of them is missing.
 */
export async function instantiateEmulator(
  module: EmulatorModule,
  imports: Record<string, EmulatorNames>,
  board: Board,
): Promise<EmulatorNames> {
  const own = imports["env"] ?? {};
  need(own, NEEDED_IMPORTS, "hand over");
  const env = own as unknown as ModuleImports;
  const hooks: HookImports = {
    hv_instruction: (instruction) => board.hv_instruction(instruction),
    hv_after_cpuid: (leaf) => board.hv_after_cpuid(leaf),
    hv_acknowledge: (vector) => board.hv_acknowledge(vector),
  };
  const wrapped: ModuleImports = {
    io_port_write8: (port, value) => {
      if (!board.writePort8(port, value)) env.io_port_write8(port, value);
    },
    io_port_write16: (port, value) => {
      if (!board.writePort16(port, value)) env.io_port_write16(port, value);
    },
    io_port_read8: (port) => board.readPort8(port) ?? env.io_port_read8(port),
    run_hardware_timers: (acpiEnabled, now) =>
      Math.min(env.run_hardware_timers(acpiEnabled, now), board.poll()),
    cpu_event_halt: () => {
      env.cpu_event_halt();
      board.deadHalt();
    },
    stop_idling: env.stop_idling,
  };
  const instance = await WebAssembly.instantiate(module, {
    ...imports,
    env: { ...own, ...wrapped, ...hooks },
  });
  need(instance.exports, NEEDED_EXPORTS, "export");
  const exports = instance.exports as unknown as ModuleExports;
  return {
    ...instance.exports,
    allocate_memory: (memoryBytes: number): number => {
      const memoryOffset = exports.allocate_memory(memoryBytes);
      exports.v86_free(exports.v86_malloc(HEADROOM_BYTES));
      const { buffer } = exports.memory;
      board.powerOn({
        buffer,
        memoryOffset,
        memoryBytes,
        apicOffset: exports.get_apic_addr(),
        ioApicOffset: exports.get_ioapic_addr(),
        forgetCode: (start, end) => exports.jit_dirty_cache(start, end),
        readPort8: (port) => env.io_port_read8(port),
        wake: () => env.stop_idling(),
      });
      return memoryOffset;
    },
    main_loop: (): number => {
      if (!board.isReady) return Math.min(board.poll(), HELD_POLL_MS);
      try {
        return exports.main_loop();
      } catch (error) {
        board.failed(error);
        return HELD_POLL_MS;
      }
    },
    reset_cpu: (): void => {
      exports.reset_cpu();
      board.processorReset();
    },
  };
}

function need(
  available: Readonly<Record<string, unknown>>,
  names: readonly string[],
  verb: string,
): void {
  const missing = names.filter((name) => available[name] === undefined);
  if (missing.length > 0)
    throw new EmulatorError(
      "ERR_EMULATOR_VERSION",
      `the emulator does not ${verb} ${missing.join(", ")}. This package needs the v86 version that its package.json names.`,
    );
}
