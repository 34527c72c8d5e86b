/** Stable codes of what keeps a guest from booting. */
export type BootErrorCode =
  | "ERR_CPUS"
  | "ERR_MEMORY"
  | "ERR_MODULE_FILE"
  | "ERR_NBD"
  | "ERR_NETWORK"
  | "ERR_PIN"
  | "ERR_TUNABLE"
  | "ERR_KTHREAD"
  | "ERR_GUEST_FAILED"
  | "ERR_POWERED_OFF";

/** A guest that cannot boot, or that is gone. */
export class BootError extends Error {
  readonly code: BootErrorCode;

  constructor(code: BootErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "BootError";
    this.code = code;
  }
}
