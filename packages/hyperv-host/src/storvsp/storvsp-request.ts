import {
  GpaRanges,
  GpaRangesResult,
  type GuestMemory,
  type IncomingRing,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  CDB_BYTES,
  DataDirection,
  Opcode,
  SERVICE_ACTION_MASK,
  ServiceAction,
  SrbPacket,
  emitTransferCdb,
  transferLba,
} from "@hyperv-is/hv-storvsc/protocol";
import type { FaultOperation } from "../faults.js";
import { ScsiCommand } from "./scsi-command.js";

const CDB_WORD = SrbPacket.cdb >>> 2;

/** A request of a channel, from its packet to its completion; then the object serves another one. */
export class StorvspRequest extends ScsiCommand {
  /** Where its data is. */
  readonly ranges: GpaRanges;
  /** Halves of its transaction id. */
  idLow = 0;
  idHigh = 0;
  /** Bytes of its packet, and so of its completion. */
  packetBytes = 0;
  pathId = 0;
  targetId = 0;
  lun = 0;
  /** Most bytes that the completion may tell of: a fault's limit. */
  mostBytes = Infinity;
  readonly #executed: (request: StorvspRequest) => void;
  readonly #cdbWords: Int32Array;

  /** @param executed - is called when the disk has ended the command. */
  constructor(memory: GuestMemory, executed: (request: StorvspRequest) => void) {
    super();
    this.ranges = new GpaRanges(memory);
    this.buffer = this.ranges;
    this.#executed = executed;
    this.#cdbWords = new Int32Array(this.cdb.buffer);
  }

  override ended(): void {
    this.#executed(this);
  }

  /**
   * Takes over what the packet says, but for the ranges.
   *
   * @param packet - a private copy. @param words - the same bytes.
   */
  load(ring: IncomingRing, packet: Uint8Array, words: Int32Array, packetBytes: number): void {
    this.idLow = ring.idLow;
    this.idHigh = ring.idHigh;
    this.packetBytes = packetBytes;
    this.pathId = packet[SrbPacket.pathId]!;
    this.targetId = packet[SrbPacket.targetId]!;
    this.lun = packet[SrbPacket.lun]!;
    // OpenVMM takes every direction but "to the device" for device to memory.
    this.direction =
      packet[SrbPacket.dataIn] === DataDirection.toDevice
        ? DataDirection.toDevice
        : DataDirection.fromDevice;
    this.mostBytes = Infinity;
    for (let word = 0; word < CDB_BYTES >>> 2; word++)
      this.#cdbWords[word] = words[CDB_WORD + word]!;
  }

  /** Reads where its data is; there is no range or one, and that holds all of `lengthBytes`. */
  loadRanges(ring: IncomingRing, lengthBytes: number): GpaRangesResult {
    const { ranges } = this;
    if (ring.type === PacketType.inBand) {
      ranges.clear();
      return lengthBytes === 0 ? GpaRangesResult.Ok : GpaRangesResult.Corrupt;
    }
    const outcome = ranges.load(ring);
    if (outcome === GpaRangesResult.Corrupt || ranges.count !== 1) return GpaRangesResult.Corrupt;
    if (outcome === GpaRangesResult.OutsideMemory) return outcome;
    if (ranges.lengthBytes < lengthBytes) return GpaRangesResult.Corrupt;
    ranges.truncate(lengthBytes);
    return GpaRangesResult.Ok;
  }

  get isTransfer(): boolean {
    const { operation } = this;
    return operation === "read" || operation === "write";
  }

  /** Makes a READ or WRITE one of fewer blocks. */
  shorten(blocks: number, blockBytes: number): void {
    const { cdb } = this;
    this.ranges.truncate(blocks * blockBytes);
    const write = this.direction === DataDirection.toDevice;
    // A read of 6 bytes that is cut short stays one of 6 bytes.
    emitTransferCdb(cdb, 0, write, transferLba(cdb, 0), blocks, cdb[0]! < 0x20 ? 6 : 10);
  }

  /** What it does, in the words of fault plans. */
  get operation(): FaultOperation {
    const opcode = this.cdb[0]!;
    const action = this.cdb[1]! & SERVICE_ACTION_MASK;
    if (opcode === Opcode.serviceActionIn16 && action === ServiceAction.readCapacity16)
      return "read-capacity";
    return operationOf.get(opcode) ?? "other";
  }
}

const operationOf: ReadonlyMap<number, FaultOperation> = new Map<number, FaultOperation>([
  [Opcode.read6, "read"],
  [Opcode.read10, "read"],
  [Opcode.read12, "read"],
  [Opcode.read16, "read"],
  [Opcode.write6, "write"],
  [Opcode.write10, "write"],
  [Opcode.write12, "write"],
  [Opcode.write16, "write"],
  [Opcode.synchronizeCache10, "flush"],
  [Opcode.synchronizeCache16, "flush"],
  [Opcode.unmap, "unmap"],
  [Opcode.inquiry, "inquiry"],
  [Opcode.readCapacity10, "read-capacity"],
  [Opcode.testUnitReady, "test-unit-ready"],
  [Opcode.modeSense6, "mode-sense"],
  [Opcode.modeSense10, "mode-sense"],
  [Opcode.reportLuns, "report-luns"],
]);
