import { CDB_BYTES, DataDirection } from "@hyperv-is/hv-storvsc/protocol";
import { type DataBuffer, gather, noData, scatter } from "./data-buffer.js";
import { ScsiResult } from "./scsi-result.js";

const initialScratchBytes = 512;

/** The command that a disk is working on, seen by the functions that answer the rare ones. */
export class ScsiCommand {
  /** 16 bytes, private to the host. */
  cdb: Uint8Array = new Uint8Array(CDB_BYTES);
  /** A `DataDirection`. */
  direction: number = DataDirection.none;
  buffer: DataBuffer = noData;
  result = new ScsiResult();
  #scratch = new Uint8Array(initialScratchBytes);

  /** Private room for an answer or a parameter list; the next call may return the same bytes. */
  scratch(lengthBytes: number): Uint8Array {
    if (this.#scratch.byteLength < lengthBytes) this.#scratch = new Uint8Array(lengthBytes);
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
