/**
 * What went wrong, as a stable code:
 *
 * - `ERR_KVP_KEY`, `ERR_KVP_VALUE`: too long for a record of a pool, or has a character in it that none may have.
 * - `ERR_KVP_POOL`: there is no such pool, or it cannot be written.
 * - `ERR_KVP_POOL_FILE`: a pool's file or its directory cannot be used; `cause` is the system's error.
 * - `ERR_KVP_LOCKED`: another program has kept the pools locked for too long.
 * - `ERR_KVP_DEVICE`: there is no device of the driver, it cannot be opened, or it speaks no dialect that is known.
 * - `ERR_KVP_DAEMON`: another daemon serves already.
 * - `ERR_KVP_NETWORK`: an address could not be set, or not be kept.
 */
export type KvpErrorCode =
  | "ERR_KVP_KEY"
  | "ERR_KVP_VALUE"
  | "ERR_KVP_POOL"
  | "ERR_KVP_POOL_FILE"
  | "ERR_KVP_LOCKED"
  | "ERR_KVP_DEVICE"
  | "ERR_KVP_DAEMON"
  | "ERR_KVP_NETWORK";

/** Every error that this package throws on purpose; `code` is stable, the message is for people. */
export class KvpError extends Error {
  override readonly name = "KvpError";
  readonly code: KvpErrorCode;

  constructor(code: KvpErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
