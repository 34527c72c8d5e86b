import type { Sense } from "./protocol/index.js";
import { senseText } from "./sense-text.js";

/**
 * Why a controller could not be attached, or is no longer there.
 *
 * - `ERR_STORVSC_TIMEOUT`: the host did not answer a step of the initialisation.
 * - `ERR_STORVSC_REFUSED`: it answered a step with a status other than success; `status` has it.
 * - `ERR_STORVSC_REPLY`: the answer was not one to that step: another operation, or too short.
 * - `ERR_STORVSC_VERSION`: it refused every protocol version.
 * - `ERR_STORVSC_MEMORY`: the CPU's arena has no room for the driver's buffers.
 * - `ERR_STORVSC_SLOTS`: fewer slots are free than were asked for.
 * - `ERR_RESCINDED`: the host took the device away.
 * - `ERR_CLOSED`: the channel was closed, by `detach` or because the host broke the protocol.
 */
export type StorvscErrorCode =
  | "ERR_STORVSC_TIMEOUT"
  | "ERR_STORVSC_REFUSED"
  | "ERR_STORVSC_REPLY"
  | "ERR_STORVSC_VERSION"
  | "ERR_STORVSC_MEMORY"
  | "ERR_STORVSC_SLOTS"
  | "ERR_RESCINDED"
  | "ERR_CLOSED";

/** The controller failed; `code` is stable, the message is for people. */
export class StorvscError extends Error {
  readonly code: StorvscErrorCode;
  /** NTSTATUS of the host's answer, when there was one. */
  readonly status: number | undefined;

  constructor(code: StorvscErrorCode, message: string, status?: number) {
    super(message);
    this.name = "StorvscError";
    this.code = code;
    this.status = status;
  }
}

/**
 * Why a SCSI command failed.
 *
 * - `ERR_SCSI_CHECK_CONDITION`: the device said why; `sense` has it.
 * - `ERR_SCSI_NOT_THERE`: no such logical unit (any more).
 * - `ERR_SCSI_DISK_CHANGED`: another disk has taken this one's place.
 * - `ERR_SCSI_BUSY`: still busy after all retries.
 * - `ERR_SCSI_RESERVATION_CONFLICT`: another initiator has reserved the disk.
 * - `ERR_SCSI_SHORT_TRANSFER`: success, but not all bytes moved.
 * - `ERR_SCSI_HOST_ADAPTER`: the host could not carry the command out and gave no sense data.
 * - `ERR_SCSI_PROTOCOL`: the host ended the command with a status that no ended command has.
 * - `ERR_SCSI_TIMEOUT`: no completion in time. The host may still use the memory of the command, so
 *   guest memory that was handed over stays untouchable until `released` resolves.
 * - `ERR_SCSI_UNSUPPORTED`: the disk does not have this operation.
 */
export type ScsiErrorCode =
  | "ERR_SCSI_CHECK_CONDITION"
  | "ERR_SCSI_NOT_THERE"
  | "ERR_SCSI_DISK_CHANGED"
  | "ERR_SCSI_BUSY"
  | "ERR_SCSI_RESERVATION_CONFLICT"
  | "ERR_SCSI_SHORT_TRANSFER"
  | "ERR_SCSI_HOST_ADAPTER"
  | "ERR_SCSI_PROTOCOL"
  | "ERR_SCSI_TIMEOUT"
  | "ERR_SCSI_UNSUPPORTED";

/** What is known about a failed command. */
export interface ScsiErrorDetails {
  /** Raw status bytes of the completion, when there was one. */
  readonly srbStatus?: number | undefined;
  readonly scsiStatus?: number | undefined;
  readonly sense?: Sense | undefined;
  /** Resolves when the host has let go of the command's memory; `ERR_SCSI_TIMEOUT` only. */
  readonly released?: Promise<void> | undefined;
}

/** A SCSI command failed; the controller and the disk live on. */
export class ScsiError extends Error {
  readonly code: ScsiErrorCode;
  readonly srbStatus: number | undefined;
  readonly scsiStatus: number | undefined;
  /** Key and additional sense; the message has them as text. */
  readonly sense: Sense | undefined;
  readonly released: Promise<void> | undefined;

  constructor(code: ScsiErrorCode, message: string, details: ScsiErrorDetails = {}) {
    super(details.sense === undefined ? message : `${message}: ${senseText(details.sense)}`);
    this.name = "ScsiError";
    this.code = code;
    this.srbStatus = details.srbStatus;
    this.scsiStatus = details.scsiStatus;
    this.sense = details.sense;
    this.released = details.released;
  }
}
