import { AdditionalSense, UnmapList, parseUnmapList } from "@hyperv-is/hv-storvsc/protocol";
import type { DiskBackend } from "./disk-backend.js";
import type { DiskCharacteristics } from "./disk-characteristics.js";
import type { DiskCounters } from "./disk-counters.js";
import type { ScsiCommand } from "./scsi-command.js";

/**
 * UNMAP. The ranges are taken in turn, so those before a range outside the disk are unmapped although the command
 * fails; what the backend cannot do is not told to the guest, since UNMAP is advice. The limit of 4096 ranges in
 * page B0 is more than a list of 65535 bytes can hold.
 */
export function unmap(
  command: ScsiCommand,
  disk: DiskBackend,
  characteristics: DiskCharacteristics,
  sectors: number,
  counters: DiskCounters,
): void {
  const { cdb, buffer, result } = command;
  const length = command.u16(7);
  if (!characteristics.unmap || length < UnmapList.descriptors || length !== buffer.lengthBytes) {
    result.invalidRequest();
    return;
  }
  const list = command.parameters(length);
  if (list === undefined) return;
  if (field(list, UnmapList.dataLength) !== length - 2) {
    result.invalidRequest();
    return;
  }
  if (field(list, UnmapList.descriptorsLength) !== length - UnmapList.descriptors) {
    result.invalidRequest(AdditionalSense.none);
    return;
  }
  const sectorBytes = disk.logicalSectorBytes;
  for (const { lba, blocks } of parseUnmapList(list)!) {
    if (lba >= sectors || blocks > sectors - lba) {
      result.invalidRequest(AdditionalSense.lbaOutOfRange);
      return;
    }
    if (blocks === 0 || disk.readOnly) continue;
    try {
      disk.unmap(lba * sectorBytes, blocks * sectorBytes);
      counters.unmaps++;
    } catch (error) {
      counters.recordError(cdb[0]!, error);
    }
  }
  result.good(0);
}

function field(list: Uint8Array, at: number): number {
  return (list[at]! << 8) | list[at + 1]!;
}
