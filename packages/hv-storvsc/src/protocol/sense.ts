/** Sense keys: the low four bits of byte 2 of fixed-format sense data. */
export const SenseKey = {
  noSense: 0x0,
  recoveredError: 0x1,
  notReady: 0x2,
  mediumError: 0x3,
  hardwareError: 0x4,
  illegalRequest: 0x5,
  unitAttention: 0x6,
  dataProtect: 0x7,
  abortedCommand: 0xb,
  miscompare: 0xe,
} as const;
/** Open enumeration: any four bits may arrive. */
export type SenseKey = (typeof SenseKey)[keyof typeof SenseKey] | (number & {});

/** Additional sense: code << 8 | qualifier. */
export const AdditionalSense = {
  none: 0x0000,
  writeFault: 0x0300,
  unrecoveredReadError: 0x1100,
  parameterListLengthError: 0x1a00,
  invalidCommandOperationCode: 0x2000,
  lbaOutOfRange: 0x2100,
  invalidFieldInCdb: 0x2400,
  logicalUnitNotSupported: 0x2500,
  invalidFieldInParameterList: 0x2600,
  writeProtected: 0x2700,
  /** A device that takes its space as it is written to has none left. */
  spaceAllocationFailed: 0x2707,
  mediumMayHaveChanged: 0x2800,
  busReset: 0x2900,
  capacityDataChanged: 0x2a09,
  mediumNotPresent: 0x3a00,
  mediumNotPresentTrayClosed: 0x3a01,
  mediumNotPresentTrayOpen: 0x3a02,
  operatingDefinitionChanged: 0x3f02,
  inquiryDataChanged: 0x3f03,
  reportedLunsChanged: 0x3f0e,
} as const;
/** Open enumeration: any u16 may arrive. */
export type AdditionalSense =
  (typeof AdditionalSense)[keyof typeof AdditionalSense] | (number & {});

/** Byte offsets in fixed-format sense data. */
export const FixedSense = {
  responseCode: 0, // u8: 0x70 current, 0x71 deferred; bit 7: information is valid
  senseKey: 2, // low four bits
  information: 3, // u32 big-endian
  additionalLength: 7, // u8: bytes after this one
  commandSpecific: 8, // u32 big-endian
  additionalSense: 12, // u16 big-endian: code, qualifier
  fieldReplaceableUnit: 14, // u8
  keySpecific: 15, // 3 bytes
  SIZE: 18, // bytes
} as const;

const currentError = 0x70;
const deferredError = 0x71;

/** Why a command failed. */
export interface Sense {
  /** The error belongs to an earlier command. */
  readonly deferred: boolean;
  readonly key: SenseKey;
  readonly additionalSense: AdditionalSense;
}

/**
 * Parses fixed-format sense data; undefined for another format or when the key is not there.
 * A missing code reads as 0.
 */
export function parseFixedSense(bytes: Uint8Array): Sense | undefined {
  const responseCode = (bytes[FixedSense.responseCode] ?? 0) & 0x7f;
  if (responseCode !== currentError && responseCode !== deferredError) return undefined;
  const key = bytes[FixedSense.senseKey];
  if (key === undefined) return undefined;
  const code = bytes[FixedSense.additionalSense] ?? 0;
  const qualifier = bytes[FixedSense.additionalSense + 1] ?? 0;
  return {
    deferred: responseCode === deferredError,
    key: key & 0x0f,
    additionalSense: (code << 8) | qualifier,
  };
}

/** Writes 18 bytes of sense data at `at`; allocates nothing. */
export function emitFixedSense(
  target: Uint8Array,
  at: number,
  key: SenseKey,
  additionalSense: AdditionalSense,
): void {
  target.fill(0, at, at + FixedSense.SIZE);
  target[at + FixedSense.responseCode] = currentError;
  target[at + FixedSense.senseKey] = key;
  target[at + FixedSense.additionalLength] = FixedSense.SIZE - 8;
  target[at + FixedSense.additionalSense] = additionalSense >>> 8;
  target[at + FixedSense.additionalSense + 1] = additionalSense & 0xff;
}
