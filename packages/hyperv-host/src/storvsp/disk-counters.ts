import { AdditionalSense, SenseKey } from "@hyperv-is/hv-storvsc/protocol";
import { NO_SPACE_CODE, READ_ONLY_CODE } from "./disk-backend.js";
import type { ScsiResult } from "./scsi-result.js";

/** The last call of a backend that threw. */
export interface BackendError {
  /** Operation code of the command that made the call. */
  readonly opcode: number;
  /** Stable code of the error, if it has one. */
  readonly code: string | undefined;
  readonly message: string;
}

/** What a disk has done since it was attached. */
export class DiskCounters {
  /** READ commands that succeeded. */
  reads = 0;
  readBytes = 0;
  /** WRITE and WRITE SAME commands that succeeded. */
  writes = 0;
  writtenBytes = 0;
  /** Calls of the backend's `flush` that succeeded, for whichever command. */
  flushes = 0;
  /** Ranges that the backend was told to forget. */
  unmaps = 0;
  /** Calls of the backend that threw. */
  errors = 0;
  lastError: BackendError | undefined;

  /** Records that the backend threw while it worked on a command. */
  recordError(opcode: number, error: unknown): void {
    this.errors++;
    this.lastError = {
      opcode,
      code: codeOf(error),
      message: error instanceof Error ? error.message : String(error),
    };
  }

  /**
   * Records the error and tells the guest: that the disk is write-protected; that there is no space for the write,
   * as thin provisioned disks say it; else a medium error.
   */
  failCommand(
    result: ScsiResult,
    opcode: number,
    error: unknown,
    additionalSense: AdditionalSense,
  ): void {
    this.recordError(opcode, error);
    const code = codeOf(error);
    if (code === READ_ONLY_CODE) result.error(SenseKey.dataProtect, AdditionalSense.writeProtected);
    else if (code === NO_SPACE_CODE)
      result.error(SenseKey.dataProtect, AdditionalSense.spaceAllocationFailed);
    else result.error(SenseKey.mediumError, additionalSense);
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined;
}
