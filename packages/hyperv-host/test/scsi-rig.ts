import { DataDirection, SrbStatusFlag, parseFixedSense } from "@hyperv-is/hv-storvsc/protocol";
import { expect } from "vitest";
import vectorFile from "../../hv-storvsc/test/vectors/storage.json" with { type: "json" };
import type { DataBuffer } from "../src/storvsp/data-buffer.js";
import type { DiskBackend } from "../src/storvsp/disk-backend.js";
import { RamDisk } from "../src/storvsp/ram-disk.js";
import { ScsiCommand } from "../src/storvsp/scsi-command.js";
import type { ScsiDisk } from "../src/storvsp/scsi-disk.js";
import type { ScsiResult } from "../src/storvsp/scsi-result.js";

/** A run of guest memory: byte index and length. */
export type Run = readonly [address: number, lengthBytes: number];

export const { toDevice, fromDevice, none } = DataDirection;

export const identity = Uint8Array.from({ length: 16 }, (_, index) => 0x10 + index);

/** The data buffer of a vector. */
export function vectorHex(id: string): string {
  return vectorFile.vectors.find((vector) => vector.id === id)!.hex;
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

export function unhex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
}

/** A CDB from its hex digits, padded with zeroes. */
export function cdbOf(text: string): Uint8Array {
  const cdb = new Uint8Array(16);
  cdb.set(unhex(text));
  return cdb;
}

export function ramDisk(sizeBytes: number, logicalSectorBytes = 512): RamDisk {
  return new RamDisk({ sizeBytes, identity, logicalSectorBytes });
}

/** A backend that does what the other does, but for the methods that are given. */
export function altered(backend: DiskBackend, changes: Partial<DiskBackend>): DiskBackend {
  return {
    readOnly: backend.readOnly,
    get sizeBytes(): number {
      return backend.sizeBytes;
    },
    logicalSectorBytes: backend.logicalSectorBytes,
    physicalSectorBytes: backend.physicalSectorBytes,
    identity: backend.identity,
    read: (...args) => backend.read(...args),
    write: (...args) => backend.write(...args),
    flush: () => backend.flush(),
    unmap: (...args) => backend.unmap(...args),
    ...changes,
  };
}

/** A backend's method that fails. */
export function fails(code: string): () => never {
  return () => {
    throw Object.assign(new Error(`failed with ${code}`), { code });
  };
}

/** Runs of guest memory: a little of its own in which all bytes outside of the runs are guards, or what is given. */
export class GuestBuffer implements DataBuffer {
  readonly bytes: Uint8Array;
  readonly #runs: readonly Run[];

  constructor(runs: readonly Run[], memory: number | Uint8Array = 1 << 17) {
    this.#runs = runs;
    this.bytes = typeof memory === "number" ? new Uint8Array(memory).fill(0xa5) : memory;
  }

  get lengthBytes(): number {
    return this.#runs.reduce((sum, [, length]) => sum + length, 0);
  }

  get runs(): number {
    return this.#runs.length;
  }

  runAddress(index: number): number {
    return this.#runs[index]![0];
  }

  runLength(index: number): number {
    return this.#runs[index]![1];
  }

  /** What lies in the runs, in their order. */
  get contents(): Uint8Array {
    const pieces = this.#runs.map(([address, length]) =>
      this.bytes.slice(address, address + length),
    );
    return new Uint8Array(Buffer.concat(pieces));
  }

  fill(data: Uint8Array): void {
    let done = 0;
    for (const [address, length] of this.#runs) {
      this.bytes.set(data.subarray(done, done + length), address);
      done += length;
    }
  }

  /** Asserts that only the first `lengthBytes` of the runs may differ from `before`. */
  expectUntouched(before: Uint8Array, lengthBytes: number): void {
    const now = this.bytes.slice();
    let left = lengthBytes;
    for (const [address, length] of this.#runs) {
      const piece = Math.min(length, left);
      now.set(before.subarray(address, address + piece), address);
      left -= piece;
    }
    expect(Buffer.compare(now, before)).toBe(0);
  }
}

export interface Outcome {
  /** "srb/scsi length", then " key/asc/ascq" when there is sense data; all but the length in hex. */
  readonly status: string;
  /** The bytes that the answer says it has. */
  readonly data: Uint8Array;
}

const h2 = (value: number): string => value.toString(16).padStart(2, "0");

/** Status of a result, in the form of `Outcome.status`. */
export function statusOf(result: ScsiResult): string {
  const plain = `${h2(result.srbStatus)}/${h2(result.scsiStatus)} ${result.dataTransferLength}`;
  if ((result.srbStatus & SrbStatusFlag.autosenseValid) === 0) {
    expect(result.senseCode).toBe(0);
    return plain;
  }
  const { key, additionalSense } = parseFixedSense(result.sense)!;
  expect(result.senseCode).toBe((key << 16) | additionalSense);
  expect(result.sense[18]! | result.sense[19]!).toBe(0);
  return `${plain} ${key.toString(16)}/${h2(additionalSense >>> 8)}/${h2(additionalSense & 0xff)}`;
}

export const good = (length = 0): string => `01/00 ${length}`;
export const invalid = (sense = "5/24/00"): string => `86/02 0 ${sense}`;
export const overrun = "92/02 0 5/24/00";
export const failed = (sense: string): string => `84/02 0 ${sense}`;

/** Has a disk that answers at once execute a command. */
export function execute(
  disk: ScsiDisk,
  cdb: Uint8Array,
  direction: number,
  buffer: DataBuffer,
): ScsiResult {
  const command = new ScsiCommand();
  const { result } = command;
  // What an earlier command left must not shine through.
  result.good(0x7fff_ffff);
  result.sense.fill(0xee);
  command.cdb.set(cdb);
  command.direction = direction;
  command.buffer = buffer;
  let ended = 0;
  command.ended = () => {
    ended++;
  };
  disk.execute(command);
  expect(ended).toBe(1);
  expect(Buffer.compare(command.cdb, cdb)).toBe(0);
  return result;
}

/** Sends one command and checks what must hold for every one. */
export function send(
  disk: ScsiDisk,
  cdb: Uint8Array,
  direction: number = none,
  buffer = new GuestBuffer([]),
): Outcome {
  const before = buffer.bytes.slice();
  const result = execute(disk, cdb, direction, buffer);
  const { dataTransferLength } = result;
  buffer.expectUntouched(before, direction === toDevice ? 0 : dataTransferLength);
  return { status: statusOf(result), data: buffer.contents.subarray(0, dataTransferLength) };
}

/** Sends a command that reads up to `lengthBytes`, into two runs if there is room for them. */
export function ask(disk: ScsiDisk, cdb: string, lengthBytes: number): Outcome {
  const split = Math.min(3, lengthBytes);
  const buffer = new GuestBuffer([
    [0x14ffd, split],
    [0x3000, lengthBytes - split],
  ]);
  return send(disk, cdbOf(cdb), fromDevice, buffer);
}

/** Sends a command together with data, from two runs if there are enough bytes. */
export function tell(disk: ScsiDisk, cdb: string, data: Uint8Array): Outcome {
  const split = Math.min(3, data.byteLength);
  const buffer = new GuestBuffer([
    [0x14ffd, split],
    [0x3000, data.byteLength - split],
  ]);
  buffer.fill(data);
  return send(disk, cdbOf(cdb), toDevice, buffer);
}
