import { CDB_BYTES, DataDirection } from "@hyperv-is/hv-storvsc/protocol";
import { type DataBuffer, gather, noData, scatter } from "./data-buffer.js";
import type { BackendEnded } from "./disk-backend.js";
import { ScsiResult } from "./scsi-result.js";

const SCRATCH_BYTES = 512;

/** What a disk waits for while its backend works on a command. */
export const CommandStep = { read: 0, write: 1, flushOfWrite: 2, flush: 3 } as const;
export type CommandStep = (typeof CommandStep)[keyof typeof CommandStep];

/** A disk whose backend works on commands. */
export interface CommandOwner {
  /** The backend has ended the step that the command is at. */
  proceed(command: ScsiCommand, error: unknown): void;
}

/**
 * One command on its way through a disk. An object serves one command after the other; the caller fills in
 * CDB, direction and buffer, and leaves all of it alone until `ended` is called.
 */
export class ScsiCommand {
  /** Private to the host: the guest cannot change it any more. */
  readonly cdb = new Uint8Array(CDB_BYTES);
  /** A `DataDirection`; data that would move the other way is an invalid request. */
  direction: number = DataDirection.none;
  buffer: DataBuffer = noData;
  readonly result = new ScsiResult();
  /** Whose backend works on the command, at which step, with how many bytes. */
  owner: CommandOwner | undefined;
  step: CommandStep = CommandStep.read;
  lengthBytes = 0;
  /** For the backend. */
  readonly stepEnded: BackendEnded = (error) => this.owner!.proceed(this, error);
  #scratch: Uint8Array | undefined;

  /** The command has ended: `result` says how. Called once, perhaps before `execute` returns; to be overridden. */
  ended(): void {
    // Whoever only looks at the result needs to hear nothing.
  }

  /** Private room for an answer or a parameter list; the next call may return the same bytes. */
  scratch(lengthBytes: number): Uint8Array {
    if (this.#scratch === undefined || this.#scratch.byteLength < lengthBytes)
      this.#scratch = new Uint8Array(Math.max(lengthBytes, SCRATCH_BYTES));
    return this.#scratch;
  }

  /** Big-endian field of the CDB. */
  u16(at: number): number {
    return (this.cdb[at]! << 8) | this.cdb[at + 1]!;
  }

  /** Big-endian field of the CDB. */
  u32(at: number): number {
    return this.u16(at) * 0x1_0000 + this.u16(at + 2);
  }

  /** The device may write the buffer: every direction but "to the device". */
  get writable(): boolean {
    return this.direction !== DataDirection.toDevice;
  }

  /** The device may read the buffer: every direction but "from the device". */
  get readable(): boolean {
    return this.direction !== DataDirection.fromDevice;
  }

  /** Ends the command with the start of `answer`; the caller has checked that the buffer holds `lengthBytes`. */
  answer(answer: Uint8Array, lengthBytes: number): void {
    if (lengthBytes > 0 && !this.writable) {
      this.result.invalidRequest();
      return;
    }
    scatter(this.buffer, answer, lengthBytes);
    this.result.good(lengthBytes);
  }

  /**
   * The first `lengthBytes` of the data sent along, copied so that the guest cannot change them any more (a view
   * of the scratch); undefined, with the command ended, when the direction forbids it.
   */
  parameters(lengthBytes: number): Uint8Array | undefined {
    if (!this.readable) {
      this.result.invalidRequest();
      return undefined;
    }
    const scratch = this.scratch(lengthBytes);
    gather(this.buffer, scratch, lengthBytes);
    return scratch.subarray(0, lengthBytes);
  }
}
