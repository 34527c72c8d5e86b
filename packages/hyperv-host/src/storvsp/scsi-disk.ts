import {
  AdditionalSense,
  CdbFlag,
  DataDirection,
  FixedSense,
  Opcode,
  ReserveOutAction,
  SERVICE_ACTION_MASK,
  SenseKey,
  emitFixedSense,
  transferBlocks,
  transferLba,
} from "@hyperv-is/hv-storvsc/protocol";
import { readCapacity10, serviceActionIn16 } from "./capacity.js";
import type { AsyncDiskBackend, DiskBackend } from "./disk-backend.js";
import {
  type DiskCharacteristics,
  SERIAL_NUMBER_BYTES_MAX,
  defaultCharacteristics,
} from "./disk-characteristics.js";
import { DiskCounters } from "./disk-counters.js";
import { ImmediateBackend } from "./immediate-backend.js";
import { inquiry } from "./inquiry.js";
import { modeSelect, modeSense } from "./mode-pages.js";
import { type CommandOwner, CommandStep, type ScsiCommand } from "./scsi-command.js";
import { unmap } from "./unmap.js";
import { writeSame } from "./write-same.js";

/** REQUEST SENSE needs room for at least the bytes in front of the additional ones. */
const requestSenseBytesMin = FixedSense.additionalLength + 1;

const senseOfResize = (SenseKey.unitAttention << 16) | AdditionalSense.capacityDataChanged;

/** Actions of PERSISTENT RESERVE OUT that have no scope: for the others it must be the logical unit, 0. */
const ignoresScope: ReadonlySet<number> = new Set([
  ReserveOutAction.register,
  ReserveOutAction.clear,
  ReserveOutAction.registerAndIgnoreExistingKey,
  ReserveOutAction.registerAndMove,
]);

/**
 * A disk behind a LUN: takes CDBs, answers as OpenVMM's SCSI disk does (microsoft/openvmm
 * vm/devices/storage/scsidisk), and keeps its blocks in a backend.
 *
 * Nothing a guest sends makes it throw or touch memory outside the buffer's runs. REPORT LUNS and LUNs without
 * a disk are the controller's business.
 */
export class ScsiDisk implements CommandOwner {
  readonly counters = new DiskCounters();
  readonly characteristics: DiskCharacteristics;
  readonly #backend: AsyncDiskBackend;
  readonly #disk: DiskBackend;
  /** Size that the guest knows about; a unit attention tells when the backend has another. */
  #knownSizeBytes: number;
  /** Sectors of `#knownSizeBytes`. */
  #sectors: number;
  /** Sense of the last command as in `ScsiResult.senseCode`, for REQUEST SENSE. */
  #senseCode = 0;

  /** @param backend - Not closed by the disk; whoever closes it waits for its calls in flight. */
  constructor(
    backend: DiskBackend | AsyncDiskBackend,
    characteristics: Partial<DiskCharacteristics> = {},
  ) {
    this.characteristics = { ...defaultCharacteristics, ...characteristics };
    if (this.characteristics.serialNumber.byteLength > SERIAL_NUMBER_BYTES_MAX)
      throw new RangeError(`a serial number has at most ${SERIAL_NUMBER_BYTES_MAX} bytes`);
    this.#backend = "whenIdle" in backend ? backend : new ImmediateBackend(backend);
    this.#disk = this.#backend.disk;
    this.#knownSizeBytes = this.#disk.sizeBytes;
    this.#sectors = this.#disk.sizeBytes / this.#disk.logicalSectorBytes;
  }

  get logicalSectorBytes(): number {
    return this.#disk.logicalSectorBytes;
  }

  /** Does what a command's CDB says, now or later; sets its result, and calls its `ended`. */
  execute(command: ScsiCommand): void {
    const opcode = command.cdb[0]!;
    if (this.#disk.sizeBytes !== this.#knownSizeBytes && opcode !== Opcode.inquiry) {
      this.#knownSizeBytes = this.#disk.sizeBytes;
      this.#sectors = this.#knownSizeBytes / this.#disk.logicalSectorBytes;
      this.#senseCode = senseOfResize;
      // REQUEST SENSE carries the news in its data, every other command fails with it.
      if (opcode !== Opcode.requestSense) {
        command.result.error(SenseKey.unitAttention, AdditionalSense.capacityDataChanged);
        this.#end(command);
        return;
      }
    }
    switch (opcode) {
      case Opcode.read6:
      case Opcode.read10:
      case Opcode.read12:
      case Opcode.read16:
        this.#read(command);
        return;
      case Opcode.write6:
      case Opcode.write10:
      case Opcode.write12:
      case Opcode.write16:
        this.#write(command);
        return;
      default:
        this.#executeRare(opcode, command);
    }
  }

  /** True if commands may wait for `carryOut`. */
  get keepsCommands(): boolean {
    return this.#backend.carryOut !== undefined;
  }

  /** Ends commands that were kept to be done together. */
  carryOut(): void {
    this.#backend.carryOut?.();
  }

  proceed(command: ScsiCommand, error: unknown): void {
    const { step, result, lengthBytes } = command;
    const opcode = command.cdb[0]!;
    if (error !== undefined) {
      const { unrecoveredReadError, writeFault } = AdditionalSense;
      const sense = step === CommandStep.read ? unrecoveredReadError : writeFault;
      this.counters.failCommand(result, opcode, error, sense);
    } else if (step === CommandStep.read) {
      this.counters.reads++;
      this.counters.readBytes += lengthBytes;
      result.good(lengthBytes);
    } else if (step === CommandStep.flush) {
      this.counters.flushes++;
      result.good(0);
    } else {
      // The 6-byte form has no flags: its byte 1 belongs to the address.
      const forced = opcode !== Opcode.write6 && (command.cdb[1]! & CdbFlag.forceUnitAccess) !== 0;
      if (step === CommandStep.write && forced) {
        command.step = CommandStep.flushOfWrite;
        this.#backend.flush(command.stepEnded);
        return;
      }
      if (forced) this.counters.flushes++;
      this.counters.writes++;
      this.counters.writtenBytes += lengthBytes;
      result.good(lengthBytes);
    }
    this.#end(command);
  }

  #read(command: ScsiCommand): void {
    const length = this.#checkTransfer(command);
    if (length > 0 && command.direction === DataDirection.toDevice) command.result.invalidRequest();
    else if (length > 0) {
      command.owner = this;
      command.step = CommandStep.read;
      command.lengthBytes = length;
      this.#backend.read(transferLba(command.cdb, 0), length, command.buffer, command.stepEnded);
      return;
    }
    this.#end(command);
  }

  #write(command: ScsiCommand): void {
    const { result } = command;
    const length = this.#checkTransfer(command);
    if (length > 0 && this.#disk.readOnly)
      result.error(SenseKey.dataProtect, AdditionalSense.writeProtected);
    else if (length > 0 && command.direction === DataDirection.fromDevice) result.invalidRequest();
    else if (length > 0) {
      command.owner = this;
      command.step = CommandStep.write;
      command.lengthBytes = length;
      this.#backend.write(transferLba(command.cdb, 0), length, command.buffer, command.stepEnded);
      return;
    }
    this.#end(command);
  }

  #end(command: ScsiCommand): void {
    this.#senseCode = command.result.senseCode;
    command.ended();
  }

  /** Bytes of a READ or WRITE, or 0 with `result` set when it may not be done. */
  #checkTransfer({ cdb, buffer, result }: ScsiCommand): number {
    if (hasRelativeAddress(cdb)) {
      result.invalidRequest();
      return 0;
    }
    const blocks = transferBlocks(cdb, 0);
    const length = blocks * this.#disk.logicalSectorBytes;
    if (blocks === 0 || length > buffer.lengthBytes || !this.#isInside(cdb)) {
      result.invalidRequest(AdditionalSense.lbaOutOfRange);
      return 0;
    }
    return length;
  }

  /** The blocks that a CDB names exist; with a count of 0 the first one must. */
  #isInside(cdb: Uint8Array): boolean {
    const lba = transferLba(cdb, 0);
    return lba < this.#sectors && transferBlocks(cdb, 0) <= this.#sectors - lba;
  }

  #executeRare(opcode: number, command: ScsiCommand): void {
    const { characteristics, counters } = this;
    const disk = this.#disk;
    switch (opcode) {
      case Opcode.synchronizeCache10:
      case Opcode.synchronizeCache16:
        this.#flush(command);
        return;
      case Opcode.startStopUnit:
        this.#startStop(command);
        return;
      case Opcode.unmap:
        this.#backend.whenIdle(() => {
          unmap(command, disk, characteristics, this.#sectors, counters);
          this.#end(command);
        });
        return;
      case Opcode.writeSame10:
      case Opcode.writeSame16:
        this.#backend.whenIdle(() => {
          writeSame(command, disk, characteristics, this.#sectors, counters);
          this.#end(command);
        });
        return;
      default:
        this.#answer(opcode, command);
        this.#end(command);
    }
  }

  /** Commands that need no block of the disk. */
  #answer(opcode: number, command: ScsiCommand): void {
    const { characteristics } = this;
    const disk = this.#disk;
    switch (opcode) {
      case Opcode.testUnitReady:
      case Opcode.formatUnit:
      case Opcode.reserve6:
      case Opcode.release6:
      case Opcode.preventAllowMediumRemoval:
        command.result.good(0);
        return;
      case Opcode.inquiry:
        inquiry(command, disk, characteristics, disk.sizeBytes / disk.logicalSectorBytes);
        return;
      case Opcode.requestSense:
        this.#requestSense(command);
        return;
      case Opcode.modeSense6:
      case Opcode.modeSense10:
        modeSense(command, disk.readOnly, characteristics);
        return;
      case Opcode.modeSelect6:
      case Opcode.modeSelect10:
        modeSelect(command, characteristics);
        return;
      case Opcode.readCapacity10:
        readCapacity10(command, disk, this.#sectors);
        return;
      case Opcode.serviceActionIn16:
        serviceActionIn16(command, disk, characteristics, this.#sectors);
        return;
      case Opcode.verify10:
      case Opcode.verify12:
      case Opcode.verify16:
      case Opcode.writeAndVerify10:
      case Opcode.writeAndVerify12:
      case Opcode.writeAndVerify16:
        this.#verify(command);
        return;
      case Opcode.sendDiagnostic:
        // Only the default self-test, which a virtual disk always passes.
        if ((command.cdb[1]! & 0xf0) !== 0 || command.u16(3) !== 0) command.result.invalidRequest();
        else command.result.good(0);
        return;
      case Opcode.persistentReserveIn:
      case Opcode.persistentReserveOut:
        refuseReservation(command);
        return;
      default:
        command.result.invalidRequest(AdditionalSense.invalidCommandOperationCode);
    }
  }

  #requestSense(command: ScsiCommand): void {
    const allocation = command.cdb[4]!;
    if (allocation < requestSenseBytesMin || allocation > command.buffer.lengthBytes) {
      command.result.invalidRequest();
      return;
    }
    const target = command.scratch(FixedSense.SIZE);
    emitFixedSense(target, 0, this.#senseCode >>> 16, this.#senseCode & 0xffff);
    command.answer(target, Math.min(FixedSense.SIZE, allocation));
  }

  /** The whole disk, whatever range the CDB names. */
  #flush(command: ScsiCommand): void {
    command.owner = this;
    command.step = CommandStep.flush;
    this.#backend.flush(command.stepEnded);
  }

  /** Only the range is checked: the reference host does not compare, and its WRITE AND VERIFY does not write. */
  #verify({ cdb, result }: ScsiCommand): void {
    if (hasRelativeAddress(cdb)) result.invalidRequest();
    else if (this.#isInside(cdb)) result.good(0);
    else result.invalidRequest(AdditionalSense.lbaOutOfRange);
  }

  #startStop(command: ScsiCommand): void {
    const { cdb, result } = command;
    if ((cdb[1]! & CdbFlag.immediate) !== 0) result.invalidRequest();
    else if ((cdb[4]! & CdbFlag.start) !== 0) result.good(0);
    else {
      this.#flush(command);
      return;
    }
    this.#end(command);
  }
}

/** The obsolete bit of the 10- and 12-byte forms; elsewhere its place belongs to other fields. */
function hasRelativeAddress(cdb: Uint8Array): boolean {
  const group = cdb[0]! >>> 5;
  return group !== 0 && group !== 4 && (cdb[1]! & CdbFlag.relativeAddress) !== 0;
}

/** PERSISTENT RESERVE IN and OUT of a disk that is not shared: unknown commands, once the CDB makes sense. */
function refuseReservation(command: ScsiCommand): void {
  const { cdb, buffer, result } = command;
  const valid =
    cdb[0] === Opcode.persistentReserveIn
      ? command.u16(7) <= buffer.lengthBytes
      : cdb[2]! >>> 4 === 0 || ignoresScope.has(cdb[1]! & SERVICE_ACTION_MASK);
  if (valid) result.invalidRequest(AdditionalSense.invalidCommandOperationCode);
  else result.invalidRequest();
}
