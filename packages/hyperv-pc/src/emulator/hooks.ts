/** Version of what `patchModule` does; a cached result of another version is no use. */
export const PATCH_VERSION = 1;

/** An instruction that the patched module hands to its import `hv_instruction` before it executes it itself. */
export const HookedInstruction = { cpuid: 1, wrmsr: 2, rdmsr: 3 } as const;
export type HookedInstruction = (typeof HookedInstruction)[keyof typeof HookedInstruction];

/** What `hv_instruction` answers. */
export const HookAnswer = {
  /** Not for us: the emulator executes the instruction. */
  pass: 0,
  /** Executed. */
  done: 1,
  /** A general-protection fault with error code 0. */
  fault: 2,
} as const;
export type HookAnswer = (typeof HookAnswer)[keyof typeof HookAnswer];

/** Imports that the patched module has beside the emulator's own, in its module `env`. */
export interface HookImports {
  /** An instruction is about to be executed; its operands are in the registers. */
  readonly hv_instruction: (instruction: number) => number;
  /** CPUID was executed by the emulator, and its results are in the registers. @param leaf - that was asked for. */
  readonly hv_after_cpuid: (leaf: number) => void;
  /** The local APIC hands a vector to the processor: it is in service, and no longer requested. */
  readonly hv_acknowledge: (vector: number) => void;
}
