import {
  AdditionalSense,
  CachingPage,
  CdbFlag,
  MODE_PAGE_MASK,
  ModeFlag,
  ModeHeader10,
  ModeHeader6,
  ModePage,
  Opcode,
  PageControl,
  WRITE_CACHE_ENABLED,
  emitModeSense10,
  emitModeSense6,
} from "@hyperv-is/hv-storvsc/protocol";
import type { DiskCharacteristics } from "./disk-characteristics.js";
import type { ScsiCommand } from "./scsi-command.js";

const answerBytesMax = ModeHeader10.SIZE + CachingPage.SIZE;

/** MODE SENSE (6 and 10): the caching page is the only one, also when all are asked for. */
export function modeSense(
  command: ScsiCommand,
  readOnly: boolean,
  characteristics: DiskCharacteristics,
): void {
  const { cdb, buffer, result } = command;
  const long = cdb[0] === Opcode.modeSense10;
  const allocation = long ? command.u16(7) : cdb[4]!;
  if (allocation === 0 || buffer.lengthBytes === 0) {
    result.good(0);
    return;
  }
  const page = cdb[2]! & MODE_PAGE_MASK;
  const control = cdb[2]! & ~MODE_PAGE_MASK;
  if (
    allocation > buffer.lengthBytes ||
    allocation < (long ? ModeHeader10.SIZE : ModeHeader6.SIZE) ||
    control === PageControl.saved ||
    (page !== ModePage.caching && page !== ModePage.all)
  ) {
    result.invalidRequest();
    return;
  }
  const specific =
    (readOnly ? ModeFlag.writeProtected : 0) |
    (characteristics.forceUnitAccess ? ModeFlag.dpoFua : 0);
  const caching =
    characteristics.writeCache && control !== PageControl.changeable ? WRITE_CACHE_ENABLED : 0;
  const target = command.scratch(answerBytesMax);
  const length = long
    ? emitModeSense10(target, specific, caching)
    : emitModeSense6(target, specific, caching);
  command.answer(target, Math.min(length, allocation));
}

/**
 * MODE SELECT (6 and 10): a caching page that leaves the write cache as it is, and nothing else. Turning it off
 * must fail: the disk may move to where it is on, and the guest would then lose what it did not flush.
 */
export function modeSelect(command: ScsiCommand, characteristics: DiskCharacteristics): void {
  const { cdb, buffer, result } = command;
  const long = cdb[0] === Opcode.modeSelect10;
  const length = long ? command.u16(7) : cdb[4]!;
  const headerBytes = long ? ModeHeader10.SIZE : ModeHeader6.SIZE;
  if (length === 0) {
    result.good(0);
    return;
  }
  if (length !== buffer.lengthBytes || length < headerBytes + CachingPage.SIZE) {
    result.invalidRequest(AdditionalSense.parameterListLengthError);
    return;
  }
  if ((cdb[1]! & CdbFlag.savePages) !== 0) {
    result.invalidRequest();
    return;
  }
  const list = command.parameters(length);
  if (list === undefined) return;
  const at =
    headerBytes +
    (long
      ? (list[ModeHeader10.blockDescriptorLength]! << 8) |
        list[ModeHeader10.blockDescriptorLength + 1]!
      : list[ModeHeader6.blockDescriptorLength]!);
  if (length < at + CachingPage.SIZE) {
    result.invalidRequest(AdditionalSense.parameterListLengthError);
    return;
  }
  const enabled = (list[at + CachingPage.flags]! & WRITE_CACHE_ENABLED) !== 0;
  // The length that is demanded is larger than the one that MODE SENSE tells: this is how the reference host
  // behaves, so a sensed page that is sent back fails.
  if (
    list[at + CachingPage.pageCode] !== ModePage.caching ||
    list[at + CachingPage.pageLength]! < CachingPage.SIZE ||
    enabled !== characteristics.writeCache
  )
    result.invalidRequest(AdditionalSense.invalidFieldInParameterList);
  else result.good(length);
}
