import { AdditionalSense, SenseKey, type Sense } from "./protocol/index.js";

const keyTexts: ReadonlyMap<number, string> = new Map<number, string>([
  [SenseKey.noSense, "no sense"],
  [SenseKey.recoveredError, "recovered error"],
  [SenseKey.notReady, "not ready"],
  [SenseKey.mediumError, "medium error"],
  [SenseKey.hardwareError, "hardware error"],
  [SenseKey.illegalRequest, "illegal request"],
  [SenseKey.unitAttention, "unit attention"],
  [SenseKey.dataProtect, "data protect"],
  [SenseKey.abortedCommand, "aborted command"],
  [SenseKey.miscompare, "miscompare"],
]);

const additionalTexts: ReadonlyMap<number, string> = new Map<number, string>([
  [AdditionalSense.writeFault, "write fault"],
  [AdditionalSense.unrecoveredReadError, "unrecovered read error"],
  [AdditionalSense.parameterListLengthError, "parameter list length error"],
  [AdditionalSense.invalidCommandOperationCode, "invalid command operation code"],
  [AdditionalSense.lbaOutOfRange, "logical block address out of range"],
  [AdditionalSense.invalidFieldInCdb, "invalid field in CDB"],
  [AdditionalSense.logicalUnitNotSupported, "logical unit not supported"],
  [AdditionalSense.invalidFieldInParameterList, "invalid field in parameter list"],
  [AdditionalSense.writeProtected, "write protected"],
  [AdditionalSense.spaceAllocationFailed, "space allocation failed"],
  [AdditionalSense.mediumMayHaveChanged, "medium may have changed"],
  [AdditionalSense.busReset, "power on, reset, or bus device reset"],
  [AdditionalSense.capacityDataChanged, "capacity data has changed"],
  [AdditionalSense.mediumNotPresent, "medium not present"],
  [AdditionalSense.mediumNotPresentTrayClosed, "medium not present, tray closed"],
  [AdditionalSense.mediumNotPresentTrayOpen, "medium not present, tray open"],
  [AdditionalSense.operatingDefinitionChanged, "operating definition has changed"],
  [AdditionalSense.inquiryDataChanged, "INQUIRY data has changed"],
  [AdditionalSense.reportedLunsChanged, "reported LUNs data has changed"],
]);

const hex = (value: number, width: number): string =>
  value.toString(16).toUpperCase().padStart(width, "0");

/** Sense data for people: "illegal request, logical block address out of range (5/21/00)". */
export function senseText({ deferred, key, additionalSense }: Sense): string {
  const numbers = `${hex(key, 1)}/${hex(additionalSense >>> 8, 2)}/${hex(additionalSense & 0xff, 2)}`;
  const words = [
    ...(deferred ? ["of an earlier command"] : []),
    keyTexts.get(key) ?? "reserved key",
    ...(additionalTexts.has(additionalSense) ? [additionalTexts.get(additionalSense)!] : []),
  ];
  return `${words.join(", ")} (${numbers})`;
}
