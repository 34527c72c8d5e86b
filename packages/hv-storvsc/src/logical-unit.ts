import type { BlockTransfer, CommandExecutor, ScsiResult } from "./command-executor.js";
import { ScsiError } from "./errors.js";
import type { AdditionalSense } from "./protocol/index.js";
import {
  CDB_BYTES,
  DataDirection,
  emitInquiryCdb,
  emitModeSense10Cdb,
  emitModeSense6Cdb,
  emitReadCapacity10Cdb,
  emitReadCapacity16Cdb,
  emitReportLunsCdb,
  emitTestUnitReadyCdb,
  PageControl,
  READ_CAPACITY_10_BYTES,
  READ_CAPACITY_16_BYTES,
} from "./protocol/index.js";
import { RetryPolicy } from "./retry-policy.js";

/** What a command is, apart from who gets it. */
export interface UnitCommand {
  /** As a message names it, for example `READ`. */
  readonly name: string;
  readonly command: Uint8Array | BlockTransfer;
  readonly direction: number;
  readonly data?: Uint8Array | undefined;
  /** Bytes that have to move; 0 unless told. */
  readonly requiredBytes?: number | undefined;
  /** As `ScsiCommand`: for ever unless told. */
  readonly timeoutMs?: number | undefined;
}

/** How long a command that asks about a unit may take: as long as a request says that it may take. */
const QUERY_TIMEOUT_MS = 60_000;

/**
 * One address on a controller, and the commands to it: with retries, and with the answer's length taken
 * from the completion. Whether anything lives there is for the commands to find out.
 *
 * All methods reject with `ScsiError`, or with `StorvscError` when the controller goes away.
 */
export class LogicalUnit {
  readonly target: number;
  readonly lun: number;
  /** A unit attention came; the command goes on when the promise resolves. */
  onAttention: ((additionalSense: AdditionalSense) => Promise<void>) | undefined;
  readonly #executor: CommandExecutor;
  readonly #probing: boolean;

  /** @param probing - Take a path that does not answer for an answer. */
  constructor(executor: CommandExecutor, target: number, lun: number, probing = false) {
    this.#executor = executor;
    this.target = target;
    this.lun = lun;
    this.#probing = probing;
  }

  /** Sends a command, again if the retry policy says so. */
  async perform(unit: UnitCommand): Promise<ScsiResult> {
    const policy = new RetryPolicy({
      write: unit.direction === DataDirection.toDevice,
      requiredBytes: unit.requiredBytes,
      probing: this.#probing,
    });
    for (;;) {
      const result = await this.#executor.execute({
        target: this.target,
        lun: this.lun,
        command: unit.command,
        direction: unit.direction,
        data: unit.data,
        timeoutMs: unit.timeoutMs,
        // Nobody waits any more: whatever goes wrong with it, the next command meets again.
        lateAttention: (additionalSense) =>
          void this.onAttention?.(additionalSense).catch(() => undefined),
      });
      const decision = policy.decide(result);
      switch (decision.kind) {
        case "done":
          return result;
        case "again":
          if (decision.delayMs > 0) await this.#executor.pause(decision.delayMs);
          break;
        case "attention":
          await this.onAttention?.(decision.additionalSense);
          break;
        case "fail":
          throw new ScsiError(decision.code, `${unit.name} at ${this.target}:${this.lun}`, result);
      }
    }
  }

  /** Succeeds when the unit takes commands that need its medium. */
  async testUnitReady(): Promise<void> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitTestUnitReadyCdb(cdb, 0);
    await this.#query("TEST UNIT READY", cdb.subarray(0, length), 0);
  }

  /** Standard INQUIRY data, or the vital product data page `page`. */
  inquiry(allocationBytes: number, page?: number): Promise<Uint8Array> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitInquiryCdb(cdb, 0, allocationBytes, page);
    return this.#query("INQUIRY", cdb.subarray(0, length), allocationBytes);
  }

  reportLuns(allocationBytes: number): Promise<Uint8Array> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitReportLunsCdb(cdb, 0, allocationBytes);
    return this.#query("REPORT LUNS", cdb.subarray(0, length), allocationBytes);
  }

  readCapacity10(): Promise<Uint8Array> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitReadCapacity10Cdb(cdb, 0);
    return this.#query("READ CAPACITY(10)", cdb.subarray(0, length), READ_CAPACITY_10_BYTES);
  }

  readCapacity16(): Promise<Uint8Array> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitReadCapacity16Cdb(cdb, 0, READ_CAPACITY_16_BYTES);
    return this.#query("READ CAPACITY(16)", cdb.subarray(0, length), READ_CAPACITY_16_BYTES);
  }

  /** Current values of a mode page, asked with the 6-byte command. */
  modeSense6(page: number, allocationBytes: number): Promise<Uint8Array> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitModeSense6Cdb(cdb, 0, PageControl.current, page, allocationBytes);
    return this.#query("MODE SENSE(6)", cdb.subarray(0, length), allocationBytes);
  }

  /** Current values of a mode page, asked with the 10-byte command. */
  modeSense10(page: number, allocationBytes: number): Promise<Uint8Array> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitModeSense10Cdb(cdb, 0, PageControl.current, page, allocationBytes);
    return this.#query("MODE SENSE(10)", cdb.subarray(0, length), allocationBytes);
  }

  /** The bytes that the unit really sent: a buffer that a failed command left alone is no answer. */
  async #query(name: string, command: Uint8Array, allocationBytes: number): Promise<Uint8Array> {
    const data = new Uint8Array(allocationBytes);
    const direction = allocationBytes === 0 ? DataDirection.none : DataDirection.fromDevice;
    const timeoutMs = QUERY_TIMEOUT_MS;
    const result = await this.perform({ name, command, direction, data, timeoutMs });
    return data.subarray(0, result.transferredBytes);
  }
}
