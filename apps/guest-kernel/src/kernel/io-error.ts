import { AdditionalSense, type Sense } from "@hyperv-is/hv-storvsc/protocol";

/** FreeBSD's error numbers that a disk's command can end with, with the words of `perror`. */
export const Errno = {
  EIO: [5, "Input/output error"],
  ENXIO: [6, "Device not configured"],
  EACCES: [13, "Permission denied"],
  EINVAL: [22, "Invalid argument"],
  ENOSPC: [28, "No space left on device"],
} as const;
export type Errno = keyof typeof Errno;

/** What FreeBSD makes of additional sense data; whatever is not here is EIO. */
const senseErrnos: ReadonlyMap<number, Errno> = new Map<number, Errno>([
  [AdditionalSense.invalidCommandOperationCode, "EINVAL"],
  [AdditionalSense.lbaOutOfRange, "EINVAL"],
  [AdditionalSense.invalidFieldInCdb, "EINVAL"],
  [AdditionalSense.logicalUnitNotSupported, "ENXIO"],
  [AdditionalSense.writeProtected, "EACCES"],
  [AdditionalSense.spaceAllocationFailed, "ENOSPC"],
  [AdditionalSense.mediumNotPresent, "ENXIO"],
]);

/** Codes of a driver's errors that say that the disk is not there any more. */
const goneCodes: ReadonlySet<unknown> = new Set([
  "ERR_SCSI_NOT_THERE",
  "ERR_SCSI_DISK_CHANGED",
  "ERR_RESCINDED",
  "ERR_CLOSED",
]);

/** A disk's command failed: the message has FreeBSD's words and, in brackets, what the driver knows. */
export class IoError extends Error {
  readonly code: Errno;

  /** @param cause - A driver's error; taken by its shape, since a module brings classes of its own. */
  constructor(cause: Error) {
    const { code, sense } = cause as Error & { readonly code?: unknown; readonly sense?: Sense };
    const errno = goneCodes.has(code)
      ? "ENXIO"
      : ((sense && senseErrnos.get(sense.additionalSense)) ?? "EIO");
    super(`${Errno[errno][1]} (${cause.message})`, { cause });
    this.name = "IoError";
    this.code = errno;
  }
}
