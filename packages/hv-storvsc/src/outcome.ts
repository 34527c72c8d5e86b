import { ScsiStatus, SRB_STATUS_CODE_MASK, SrbStatus, SrbStatusFlag } from "./protocol/index.js";

/** How a command ended, as far as its issuer has to act on it. */
export const Outcome = {
  /** Done; all bytes moved if the transferred length says so. */
  ok: 0,
  /** Done, but the device's data did not have the length of the buffer. */
  overrun: 1,
  /** Lost to a reset, a flush or an abort: send it again. */
  retry: 2,
  /** Send it again after a while. */
  busy: 3,
  /** The path, target or device does not answer now: as `busy` for a known disk, absent for a scan. */
  noPath: 4,
  /** There is no such logical unit. */
  notThere: 5,
  /** The sense data says why. */
  checkCondition: 6,
  /** The sense data brings news about the disk, which acts on it: send the command again. */
  unitAttention: 7,
  /** Another initiator holds a reservation. */
  conflict: 8,
  /** The host adapter failed the command without a reason that a device gave. */
  error: 9,
  /** No ended command has this status: the host broke the protocol. */
  violation: 10,
  /** The channel closed first; nothing is known about the data. */
  closed: 11,
} as const;
export type Outcome = (typeof Outcome)[keyof typeof Outcome];

/** True if the sense data of a completion counts: both bytes have to say so. */
export function autosenseValid(srbStatus: number, scsiStatus: number): boolean {
  return (
    scsiStatus === ScsiStatus.checkCondition && (srbStatus & SrbStatusFlag.autosenseValid) !== 0
  );
}

/**
 * The outcome that the two raw status bytes of a completion stand for; never `unitAttention` or `closed`.
 *
 * `srbStatus` decides first: a missing unit is reported with SCSI status good by Windows and with check
 * condition by OpenVMM. What FreeBSD does with the codes is the base; different are the two codes on
 * which it panics (`violation`), the retryable ones it fails, and an invalid request, which stays invalid.
 */
export function outcomeOf(srbStatus: number, scsiStatus: number): Outcome {
  const code = srbStatus & SRB_STATUS_CODE_MASK;
  if (code === SrbStatus.invalidLun) return Outcome.notThere;
  if (code === SrbStatus.pending || code === SrbStatus.abortFailed) return Outcome.violation;
  if (autosenseValid(srbStatus, scsiStatus)) return Outcome.checkCondition;
  switch (scsiStatus) {
    case ScsiStatus.good:
    case ScsiStatus.conditionMet:
    case ScsiStatus.intermediate:
    case ScsiStatus.intermediateConditionMet:
      return code === SrbStatus.success ? Outcome.ok : adapterOutcome(code);
    case ScsiStatus.busy:
    case ScsiStatus.queueFull:
      return Outcome.busy;
    case ScsiStatus.reservationConflict:
      return Outcome.conflict;
    case ScsiStatus.taskAborted:
      return Outcome.retry;
    default:
      // Check condition without sense, and whatever else: what the adapter says, if it says anything.
      return code === SrbStatus.success || code === SrbStatus.dataOverrun
        ? Outcome.error
        : adapterOutcome(code);
  }
}

function adapterOutcome(code: SrbStatus): Outcome {
  switch (code) {
    case SrbStatus.aborted:
    case SrbStatus.busReset:
    case SrbStatus.requestFlushed:
      return Outcome.retry;
    case SrbStatus.busy:
    case SrbStatus.timeout:
    case SrbStatus.commandTimeout:
    case SrbStatus.errorRecovery:
    case SrbStatus.linkDown:
      return Outcome.busy;
    case SrbStatus.invalidPathId:
    case SrbStatus.noDevice:
    case SrbStatus.invalidTargetId:
      return Outcome.noPath;
    case SrbStatus.dataOverrun:
      return Outcome.overrun;
    default:
      return Outcome.error;
  }
}

/**
 * Bytes that a completion really moved: what it returned, at most what was asked for, and only on success and
 * overrun; every other completion may carry the requested length untouched.
 */
export function transferredBytes(
  srbStatus: number,
  returnedBytes: number,
  requestedBytes: number,
): number {
  const code = srbStatus & SRB_STATUS_CODE_MASK;
  if (code !== SrbStatus.success && code !== SrbStatus.dataOverrun) return 0;
  return returnedBytes < requestedBytes ? returnedBytes : requestedBytes;
}
