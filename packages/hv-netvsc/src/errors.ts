/**
 * Why an interface could not be attached, a request to the host failed, or the interface is no longer there.
 *
 * - `ERR_NETVSC_TIMEOUT`: the host did not answer in time.
 * - `ERR_NETVSC_REFUSED`: it answered with a status other than success; `status` has it.
 * - `ERR_NETVSC_REPLY`: the answer was none to what was asked: another message, too short, or impossible.
 * - `ERR_NETVSC_VERSION`: it refused every protocol version.
 * - `ERR_NETVSC_MEMORY`: the CPU's arena has no room for the driver's buffers.
 * - `ERR_NETVSC_BUSY`: the host has not taken earlier control messages yet.
 * - `ERR_NETVSC_CHANGED`: after a new attach the adapter is another one, or can do other things than before.
 * - `ERR_RESCINDED`: the host took the device away.
 * - `ERR_CLOSED`: the channel was closed, by `detach` or because the host broke the protocol.
 */
export type NetvscErrorCode =
  | "ERR_NETVSC_TIMEOUT"
  | "ERR_NETVSC_REFUSED"
  | "ERR_NETVSC_REPLY"
  | "ERR_NETVSC_VERSION"
  | "ERR_NETVSC_MEMORY"
  | "ERR_NETVSC_BUSY"
  | "ERR_NETVSC_CHANGED"
  | "ERR_RESCINDED"
  | "ERR_CLOSED";

/** The interface failed; `code` is stable, the message is for people. */
export class NetvscError extends Error {
  readonly code: NetvscErrorCode;
  /** NVSP or RNDIS status of the host's answer, when there was one. */
  readonly status: number | undefined;

  constructor(code: NetvscErrorCode, message: string, status?: number) {
    super(message);
    this.name = "NetvscError";
    this.code = code;
    this.status = status;
  }
}
