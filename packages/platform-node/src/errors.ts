/** Codes of `PlatformError`; stable. */
export type PlatformErrorCode =
  /** The operating system or the engine refuses this much shared memory. */
  | "ERR_MEMORY_UNAVAILABLE"
  /** An environment variable has a value that cannot be understood. */
  | "ERR_BAD_SETTING"
  /** The entry file of a worker does not exist. */
  | "ERR_WORKER_ENTRY"
  /** A worker neither stopped when asked nor could be terminated. */
  | "ERR_WORKER_STUCK"
  /** A file that should be a driver module is none, or is one for another kernel. */
  | "ERR_BAD_MODULE"
  /** Somebody listens at the path of a socket, or something else is there. */
  | "ERR_SOCKET_IN_USE"
  /** There can be no socket at a path. */
  | "ERR_SOCKET_PATH"
  /** This system has no TAP devices. */
  | "ERR_TAP_UNSUPPORTED"
  /** The package koffi is not installed. */
  | "ERR_KOFFI_MISSING"
  /** There is no /dev/net/tun. */
  | "ERR_TAP_DEVICE"
  /** This user may not make or change TAP devices. */
  | "ERR_TAP_PERMISSION"
  /** There is no such network namespace. */
  | "ERR_NETNS"
  /** The kernel refuses a TAP device, or a setting of one. */
  | "ERR_TAP"
  /** Threads cannot be pinned to CPUs on this system. */
  | "ERR_AFFINITY_UNSUPPORTED"
  /** A thread cannot be pinned to a CPU. */
  | "ERR_AFFINITY"
  /** This Node does not export its event loop. */
  | "ERR_NODE_LOOP";

/** What the platform could not do; `code` is stable, the message is for people. */
export class PlatformError extends Error {
  readonly code: PlatformErrorCode;

  constructor(code: PlatformErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}
