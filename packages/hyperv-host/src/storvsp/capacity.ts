import {
  AdditionalSense,
  Capacity16,
  type LbaExtent,
  LbaStatus,
  LbaStatusDescriptor,
  LbaStatusList,
  READ_CAPACITY_10_BYTES,
  READ_CAPACITY_16_BYTES,
  SERVICE_ACTION_MASK,
  ServiceAction,
  emitLbaStatusList,
  emitReadCapacity10,
  emitReadCapacity16,
  transferLba,
} from "@hyperv-is/hv-storvsc/protocol";
import type { DiskBackend } from "./disk-backend.js";
import type { DiskCharacteristics } from "./disk-characteristics.js";
import type { ScsiCommand } from "./scsi-command.js";

/** READ CAPACITY(10). */
export function readCapacity10(command: ScsiCommand, disk: DiskBackend, sectors: number): void {
  if (command.buffer.lengthBytes < READ_CAPACITY_10_BYTES) {
    command.result.dataOverrun();
    return;
  }
  const target = command.scratch(READ_CAPACITY_10_BYTES);
  command.answer(
    target,
    emitReadCapacity10(target, { lastLba: sectors - 1, blockBytes: disk.logicalSectorBytes }),
  );
}

/** SERVICE ACTION IN(16): READ CAPACITY(16), and GET LBA STATUS where the disk has it. */
export function serviceActionIn16(
  command: ScsiCommand,
  disk: DiskBackend,
  characteristics: DiskCharacteristics,
  sectors: number,
): void {
  switch (command.cdb[1]! & SERVICE_ACTION_MASK) {
    case ServiceAction.readCapacity16:
      readCapacity16(command, disk, characteristics, sectors);
      return;
    case ServiceAction.getLbaStatus:
      if (characteristics.lbaStatus) getLbaStatus(command, disk, characteristics, sectors);
      else command.result.invalidRequest(AdditionalSense.invalidCommandOperationCode);
      return;
    default:
      command.result.invalidRequest();
  }
}

/** The buffer cuts the answer; the allocation length of the CDB is not looked at. */
function readCapacity16(
  command: ScsiCommand,
  disk: DiskBackend,
  { unmap, tellsHoles }: DiskCharacteristics,
  sectors: number,
): void {
  if (command.buffer.lengthBytes < Capacity16.protection) {
    command.result.dataOverrun();
    return;
  }
  const target = command.scratch(READ_CAPACITY_16_BYTES);
  const length = emitReadCapacity16(target, {
    lastLba: sectors - 1,
    blockBytes: disk.logicalSectorBytes,
    physicalExponent: Math.log2(disk.physicalSectorBytes / disk.logicalSectorBytes),
    provisioned: unmap,
    unmappedReadsZero: tellsHoles,
  });
  command.answer(target, Math.min(length, command.buffer.lengthBytes));
}

/** What is mapped, in as few extents as the counts allow: everything, unless the disk is to tell its holes and knows them. */
function getLbaStatus(
  command: ScsiCommand,
  disk: DiskBackend,
  { tellsHoles }: DiskCharacteristics,
  sectors: number,
): void {
  const { cdb, buffer, result } = command;
  const start = transferLba(cdb, 0);
  const allocation = command.u32(10);
  if (start >= sectors) {
    result.invalidRequest(AdditionalSense.lbaOutOfRange);
    return;
  }
  if (allocation !== buffer.lengthBytes) {
    result.invalidRequest();
    return;
  }
  if (allocation === 0) {
    result.good(0);
    return;
  }
  const room = Math.floor((allocation - LbaStatusList.descriptors) / LbaStatusDescriptor.SIZE);
  if (room < 1) {
    result.invalidRequest();
    return;
  }
  const extents: LbaExtent[] = [];
  for (let lba = start; lba < sectors && extents.length < room;) {
    const position = lba * disk.logicalSectorBytes;
    const data = tellsHoles ? (disk.nextData?.(position) ?? position) : position;
    const isHole = data > position;
    const end = isHole ? data : tellsHoles ? disk.nextHole?.(position) : undefined;
    const endLba = end === undefined ? sectors : Math.min(end / disk.logicalSectorBytes, sectors);
    const blocks = Math.min(endLba - lba, 0xffff_ffff);
    extents.push({ lba, blocks, status: isHole ? LbaStatus.deallocated : LbaStatus.mapped });
    lba += blocks;
  }
  const target = command.scratch(
    LbaStatusList.descriptors + extents.length * LbaStatusDescriptor.SIZE,
  );
  command.answer(target, emitLbaStatusList(target, extents));
}
