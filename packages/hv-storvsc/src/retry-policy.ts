import type { ScsiErrorCode } from "./errors.js";
import type { ScsiResult } from "./command-executor.js";
import { Outcome } from "./outcome.js";
import { AdditionalSense, SenseKey } from "./protocol/index.js";

/** What to do about a command that ended. */
export type RetryDecision =
  | { readonly kind: "done" }
  /** Send it again after `delayMs`. */
  | { readonly kind: "again"; readonly delayMs: number }
  /** Act on the news in the sense data, then send it again. */
  | { readonly kind: "attention"; readonly additionalSense: AdditionalSense }
  | { readonly kind: "fail"; readonly code: ScsiErrorCode };

/** What makes a difference to whether a command is sent again. */
export interface RetryOptions {
  /** A command that changes the disk: a medium error is final. */
  readonly write?: boolean | undefined;
  /** Bytes that have to move for success; 0 for commands whose answer may be short. */
  readonly requiredBytes?: number | undefined;
  /** The command asks whether something is there: a path that does not answer is an answer. */
  readonly probing?: boolean | undefined;
}

/** How often a command is sent again at once: FreeBSD's da driver has the same number. */
const RETRIES = 4;
const FIRST_DELAY_MS = 10;
const LONGEST_DELAY_MS = 1000;
/** How long a busy device is waited for: as long as a host may take for one request. */
const BUSY_LIMIT_MS = 60_000;

/** The retries of one command: decides, and remembers what it decided. */
export class RetryPolicy {
  readonly #write: boolean;
  readonly #requiredBytes: number;
  readonly #probing: boolean;
  #retries = 0;
  #delayMs = FIRST_DELAY_MS;
  #waitedMs = 0;

  constructor(options: RetryOptions = {}) {
    this.#write = options.write ?? false;
    this.#requiredBytes = options.requiredBytes ?? 0;
    this.#probing = options.probing ?? false;
  }

  decide(result: ScsiResult): RetryDecision {
    switch (result.outcome) {
      case Outcome.ok:
      case Outcome.overrun:
        if (result.transferredBytes >= this.#requiredBytes) return { kind: "done" };
        return this.#again("ERR_SCSI_SHORT_TRANSFER");
      case Outcome.retry:
      case Outcome.error:
        return this.#again("ERR_SCSI_HOST_ADAPTER");
      case Outcome.busy:
        return this.#later("ERR_SCSI_BUSY");
      case Outcome.noPath:
        return this.#probing ? fail("ERR_SCSI_NOT_THERE") : this.#later("ERR_SCSI_NOT_THERE");
      case Outcome.notThere:
        return fail("ERR_SCSI_NOT_THERE");
      case Outcome.conflict:
        return fail("ERR_SCSI_RESERVATION_CONFLICT");
      case Outcome.unitAttention: {
        if (this.#retries++ === RETRIES) return fail("ERR_SCSI_CHECK_CONDITION");
        const additionalSense = result.sense?.additionalSense ?? AdditionalSense.none;
        return { kind: "attention", additionalSense };
      }
      case Outcome.checkCondition:
        return this.#checkCondition(result);
      case Outcome.violation:
      case Outcome.closed:
        return fail("ERR_SCSI_PROTOCOL");
    }
  }

  #checkCondition({ sense }: ScsiResult): RetryDecision {
    const code = "ERR_SCSI_CHECK_CONDITION";
    // The loss of an earlier command's data must not vanish in a retry of this one.
    if (sense === undefined || sense.deferred) return fail(code);
    switch (sense.key) {
      case SenseKey.noSense:
      case SenseKey.recoveredError:
      case SenseKey.hardwareError:
      case SenseKey.abortedCommand:
        return this.#again(code);
      case SenseKey.mediumError:
        return this.#write ? fail(code) : this.#again(code);
      case SenseKey.notReady:
        // "In process of becoming ready" passes; no medium does not.
        return sense.additionalSense >>> 8 === 0x04 ? this.#later(code) : fail(code);
      default:
        return fail(code);
    }
  }

  #again(code: ScsiErrorCode): RetryDecision {
    return this.#retries++ === RETRIES ? fail(code) : { kind: "again", delayMs: 0 };
  }

  #later(code: ScsiErrorCode): RetryDecision {
    if (this.#waitedMs >= BUSY_LIMIT_MS) return fail(code);
    const delayMs = this.#delayMs;
    this.#waitedMs += delayMs;
    this.#delayMs = Math.min(delayMs * 2, LONGEST_DELAY_MS);
    return { kind: "again", delayMs };
  }
}

function fail(code: ScsiErrorCode): RetryDecision {
  return { kind: "fail", code };
}
