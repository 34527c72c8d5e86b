/** SCSI operation codes: byte 0 of a CDB. */
export const Opcode = {
  testUnitReady: 0x00,
  requestSense: 0x03,
  formatUnit: 0x04,
  read6: 0x08,
  write6: 0x0a,
  inquiry: 0x12,
  modeSelect6: 0x15,
  reserve6: 0x16,
  release6: 0x17,
  modeSense6: 0x1a,
  startStopUnit: 0x1b,
  sendDiagnostic: 0x1d,
  preventAllowMediumRemoval: 0x1e,
  setWindow: 0x24,
  readCapacity10: 0x25,
  read10: 0x28,
  write10: 0x2a,
  writeAndVerify10: 0x2e,
  verify10: 0x2f,
  synchronizeCache10: 0x35,
  writeSame10: 0x41,
  unmap: 0x42,
  modeSelect10: 0x55,
  modeSense10: 0x5a,
  persistentReserveIn: 0x5e,
  persistentReserveOut: 0x5f,
  ataPassThrough16: 0x85,
  read16: 0x88,
  write16: 0x8a,
  writeAndVerify16: 0x8e,
  verify16: 0x8f,
  synchronizeCache16: 0x91,
  writeSame16: 0x93,
  serviceActionIn16: 0x9e,
  reportLuns: 0xa0,
  ataPassThrough12: 0xa1,
  maintenanceIn: 0xa3,
  read12: 0xa8,
  write12: 0xaa,
  writeAndVerify12: 0xae,
  verify12: 0xaf,
} as const;
/** Open enumeration: any byte may arrive. */
export type Opcode = (typeof Opcode)[keyof typeof Opcode] | (number & {});

/** Service actions of SERVICE ACTION IN(16): the low five bits of byte 1. */
export const ServiceAction = { readCapacity16: 0x10, getLbaStatus: 0x12 } as const;
/** Service actions are the low five bits of byte 1 of a CDB. */
export const SERVICE_ACTION_MASK = 0x1f;

/** SCSI status of a finished command. */
export const ScsiStatus = {
  good: 0x00,
  checkCondition: 0x02,
  conditionMet: 0x04,
  busy: 0x08,
  intermediate: 0x10,
  intermediateConditionMet: 0x14,
  reservationConflict: 0x18,
  commandTerminated: 0x22,
  queueFull: 0x28,
  taskAborted: 0x40,
} as const;
/** Open enumeration: any byte may arrive. */
export type ScsiStatus = (typeof ScsiStatus)[keyof typeof ScsiStatus] | (number & {});

/** Peripheral device types: the low five bits of byte 0 of INQUIRY data. */
export const PeripheralType = { disk: 0x00, cdDvd: 0x05, unknown: 0x1f } as const;

/** Values of the version byte of INQUIRY data. */
export const ScsiVersion = { none: 0, spc2: 4, spc3: 5 } as const;

/** Flags of CDBs. */
export const CdbFlag = {
  /** Byte 1 of READ, WRITE, VERIFY (10, 12) and WRITE SAME(10): obsolete, refused. */
  relativeAddress: 0x01,
  /** Byte 1 of READ and WRITE (10, 12, 16): the data is on the medium before the command ends. */
  forceUnitAccess: 0x08,
  /** Byte 1 of INQUIRY: a vital product data page is asked for. */
  enableVitalProductData: 0x01,
  /** Byte 1 of INQUIRY: obsolete. */
  commandSupportData: 0x02,
  /** Byte 1 of MODE SENSE: no block descriptors, please. */
  disableBlockDescriptors: 0x08,
  /** Byte 1 of MODE SELECT: save the pages. */
  savePages: 0x01,
  /** Byte 1 of START STOP UNIT: answer before the work is done. */
  immediate: 0x01,
  /** Byte 4 of START STOP UNIT. */
  start: 0x01,
} as const;

/** Service actions of PERSISTENT RESERVE IN. */
export const ReserveInAction = {
  readKeys: 0,
  readReservation: 1,
  reportCapabilities: 2,
  readFullStatus: 3,
} as const;

/** Service actions of PERSISTENT RESERVE OUT. */
export const ReserveOutAction = {
  register: 0,
  reserve: 1,
  release: 2,
  clear: 3,
  preempt: 4,
  preemptAndAbort: 5,
  registerAndIgnoreExistingKey: 6,
  registerAndMove: 7,
} as const;

/** Types of a persistent reservation. */
export const ReservationType = {
  writeExclusive: 1,
  exclusiveAccess: 3,
  writeExclusiveRegistrantsOnly: 5,
  exclusiveAccessRegistrantsOnly: 6,
  writeExclusiveAllRegistrants: 7,
  exclusiveAccessAllRegistrants: 8,
} as const;

/** The parameter list of PERSISTENT RESERVE OUT has exactly this length. */
export const RESERVE_OUT_LIST_BYTES = 24;
