/** Stable codes of what keeps the emulator from running a machine. */
export type EmulatorErrorCode =
  /** The emulator's module is not built as the hooks expect: another version of it is installed. */
  | "ERR_EMULATOR_VERSION"
  /** The hooks are in, but the emulated processor does not behave as it must. */
  | "ERR_EMULATOR_SELF_TEST"
  /** The emulator's heap moved under the host's views of it. */
  | "ERR_EMULATOR_MEMORY";

/** An emulator that cannot be used. */
export class EmulatorError extends Error {
  readonly code: EmulatorErrorCode;

  constructor(code: EmulatorErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EmulatorError";
    this.code = code;
  }
}
