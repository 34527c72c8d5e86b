import { setFlagsFromString } from "node:v8";

/**
 * Has V8 compile what the emulator translates once and quickly, instead of optimizing what runs often: a kernel that
 * boots runs much code a few times. A boot takes two thirds of the time, a long computation a quarter more.
 *
 * Holds for all WebAssembly of the process from now on, so it is for programs whose process is their own.
 */
export function preferQuickCompilation(): void {
  setFlagsFromString("--liftoff-only");
}
