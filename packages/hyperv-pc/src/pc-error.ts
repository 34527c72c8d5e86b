/** Stable codes of what keeps a PC from booting, or ends it. */
export type PcErrorCode =
  /** Not a Linux kernel (bzImage). */
  | "ERR_KERNEL_FORMAT"
  /** A 64-bit kernel: the emulated processor has 32 bits. */
  | "ERR_KERNEL_64_BIT"
  | "ERR_COMMAND_LINE"
  | "ERR_MEMORY"
  | "ERR_BOOT_OPTIONS"
  /** The firmware is not installed, or not what is expected. */
  | "ERR_FIRMWARE"
  | "ERR_FILE"
  /** The machine is off: nothing more will come from its guest. */
  | "ERR_POWERED_OFF"
  /** The machine cannot be saved now. */
  | "ERR_BUSY"
  | "ERR_SNAPSHOT";

/** A PC that cannot do what it is asked to. */
export class PcError extends Error {
  readonly code: PcErrorCode;

  constructor(code: PcErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "PcError";
    this.code = code;
  }
}
