import {
  CdbFlag,
  DataDirection,
  InquiryData,
  LunList,
  Opcode,
  ScsiStatus,
  SrbStatus,
  emitReportLuns,
  emitStandardInquiry,
} from "@hyperv-is/hv-storvsc/protocol";
import { scatter } from "./data-buffer.js";
import { absentInquiry } from "./inquiry.js";
import type { ScsiCommand } from "./scsi-command.js";
import type { ScsiDisk } from "./scsi-disk.js";

/** LUNs of a controller: one byte on the wire, 64 on Hyper-V. */
export const LUNS_PER_CONTROLLER = 64;

/** Where a disk sits on its controller. */
export interface ScsiAddress {
  readonly path: number;
  readonly target: number;
  readonly lun: number;
}

/**
 * What is answered for a LUN without a disk: as OpenVMM does it, or as a Windows host was reported to
 * (FreeBSD review D7521): INQUIRY fails and leaves the buffer alone, and the SCSI status is good beside an
 * SRB status that says otherwise.
 */
export type AbsentLunAnswer = "openvmm" | "windows";

/** The disks of a controller, and the answers that do not come from a disk. */
export class LunTable {
  readonly #disks = new Map<number, ScsiDisk>();
  readonly #absentLun: AbsentLunAnswer;
  /** Disks that keep commands. */
  #keeping: readonly ScsiDisk[] = [];

  constructor(absentLun: AbsentLunAnswer) {
    this.#absentLun = absentLun;
  }

  attach(address: ScsiAddress, disk: ScsiDisk): void {
    const { lun } = address;
    if (!Number.isInteger(lun) || lun < 0 || lun >= LUNS_PER_CONTROLLER)
      throw new RangeError(`a controller has LUNs 0 to ${LUNS_PER_CONTROLLER - 1}, not ${lun}`);
    const key = keyOf(address.path, address.target, lun);
    if (this.#disks.has(key)) throw new RangeError(`LUN ${lun} is taken`);
    this.#disks.set(key, disk);
    this.#changed();
  }

  /** Takes a disk out; undefined if there was none. Commands that it has begun still end. */
  detach({ path, target, lun }: ScsiAddress): ScsiDisk | undefined {
    const key = keyOf(path, target, lun);
    const disk = this.#disks.get(key);
    this.#disks.delete(key);
    this.#changed();
    return disk;
  }

  /** All disks with their addresses. */
  *entries(): IterableIterator<readonly [ScsiAddress, ScsiDisk]> {
    for (const [key, disk] of this.#disks)
      yield [{ path: key >>> 16, target: (key >>> 8) & 255, lun: key & 255 }, disk];
  }

  /** Executes a command: by the disk at the address, or in its place; see `ScsiDisk.execute`. */
  execute(path: number, target: number, lun: number, command: ScsiCommand): void {
    if (command.cdb[0] === Opcode.reportLuns) {
      this.#reportLuns(path, target, command);
      command.ended();
      return;
    }
    const disk = this.#disks.get(keyOf(path, target, lun));
    if (disk !== undefined) {
      disk.execute(command);
      return;
    }
    this.#executeAbsent(lun, command);
    command.ended();
  }

  /** Has the disks end commands that they have kept to do them together. */
  carryOut(): void {
    for (const disk of this.#keeping) disk.carryOut();
  }

  /** The disk at an address. */
  find(path: number, target: number, lun: number): ScsiDisk | undefined {
    return this.#disks.get(keyOf(path, target, lun));
  }

  #changed(): void {
    this.#keeping = [...this.#disks.values()].filter(({ keepsCommands }) => keepsCommands);
  }

  /** The LUNs of the target that was asked, with or without a disk at the LUN that was asked. */
  #reportLuns(path: number, target: number, command: ScsiCommand): void {
    const { direction, buffer, result } = command;
    if (buffer.lengthBytes < LunList.entries) {
      result.good(0);
      return;
    }
    if (direction === DataDirection.toDevice) {
      result.invalidRequest();
      return;
    }
    const first = keyOf(path, target, 0);
    const luns = Array.from(this.#disks.keys(), (key) => key - first)
      .filter((lun) => lun >= 0 && lun < 256)
      .sort((left, right) => left - right);
    const size = LunList.entries + luns.length * LunList.ENTRY_SIZE;
    const list = new Uint8Array(Math.min(size, buffer.lengthBytes));
    const length = emitReportLuns(list, luns);
    scatter(buffer, list, length);
    result.good(length);
  }

  #executeAbsent(lun: number, { cdb, direction, buffer, result }: ScsiCommand): void {
    if (this.#absentLun === "windows") {
      result.failWithoutSense(SrbStatus.invalidLun, ScsiStatus.good);
      return;
    }
    if (cdb[0] !== Opcode.inquiry) {
      result.failWithoutSense(SrbStatus.invalidLun, ScsiStatus.checkCondition);
      return;
    }
    const allocation = (cdb[3]! << 8) | cdb[4]!;
    const standard = (cdb[1]! & CdbFlag.enableVitalProductData) === 0;
    const room = allocation <= buffer.lengthBytes && allocation > InquiryData.additionalLength;
    if (!standard || !room || direction !== DataDirection.fromDevice) {
      result.invalidRequest();
      return;
    }
    const data = new Uint8Array(256);
    const length = Math.min(emitStandardInquiry(data, absentInquiry(lun)), allocation);
    scatter(buffer, data, length);
    result.good(length);
  }
}

function keyOf(path: number, target: number, lun: number): number {
  return (path << 16) | (target << 8) | lun;
}
