import {
  AdditionalSense,
  CdbFlag,
  Opcode,
  SenseKey,
  transferBlocks,
  transferLba,
} from "@hyperv-is/hv-storvsc/protocol";
import type { DiskBackend } from "./disk-backend.js";
import { type DiskCharacteristics, WRITE_SAME_BYTES_MAX } from "./disk-characteristics.js";
import type { DiskCounters } from "./disk-counters.js";
import type { ScsiCommand } from "./scsi-command.js";

const pieceBytesMax = 65536;

/**
 * WRITE SAME (10 and 16): the first sector of the buffer, over and over. Its UNMAP bit is not looked at, and a
 * count of 0 writes nothing. The answer says how much was written, not how much was sent.
 */
export function writeSame(
  command: ScsiCommand,
  disk: DiskBackend,
  characteristics: DiskCharacteristics,
  sectors: number,
  counters: DiskCounters,
): void {
  const { cdb, buffer, result } = command;
  const sectorBytes = disk.logicalSectorBytes;
  const lba = transferLba(cdb, 0);
  const blocks = transferBlocks(cdb, 0);
  const length = blocks * sectorBytes;
  if (cdb[0] === Opcode.writeSame10 && (cdb[1]! & CdbFlag.relativeAddress) !== 0) {
    result.invalidRequest();
    return;
  }
  if (lba >= sectors || blocks > sectors - lba) {
    result.invalidRequest(AdditionalSense.lbaOutOfRange);
    return;
  }
  if (disk.readOnly) {
    result.error(SenseKey.dataProtect, AdditionalSense.writeProtected);
    return;
  }
  if (length > Math.min(WRITE_SAME_BYTES_MAX, characteristics.transferBytesMax)) {
    result.invalidRequest(AdditionalSense.lbaOutOfRange);
    return;
  }
  if (blocks === 0) {
    result.good(0);
    return;
  }
  if (buffer.lengthBytes < sectorBytes) {
    result.invalidRequest();
    return;
  }
  const sector = command.parameters(sectorBytes);
  if (sector === undefined) return;
  const piece = new Uint8Array(Math.min(length, pieceBytesMax));
  for (let at = 0; at < piece.byteLength; at += sectorBytes) piece.set(sector, at);
  const start = lba * sectorBytes;
  try {
    for (let done = 0; done < length; done += piece.byteLength)
      disk.write(start + done, piece, 0, Math.min(piece.byteLength, length - done));
    if ((cdb[1]! & CdbFlag.forceUnitAccess) !== 0) {
      disk.flush();
      counters.flushes++;
    }
  } catch (error) {
    counters.failCommand(result, cdb[0]!, error, AdditionalSense.writeFault);
    return;
  }
  counters.writes++;
  counters.writtenBytes += length;
  result.good(length);
}
