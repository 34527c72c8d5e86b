// Sources: freebsd-src sys/dev/hyperv/utilities/hv_kvp.h, Linux include/uapi/linux/hyperv.h, OpenVMM
// hyperv_ic_protocol/src/kvp.rs.

/** What the host asks for. */
export const KvpOperation = {
  get: 0,
  set: 1,
  delete: 2,
  enumerate: 3,
  getIpInfo: 4,
  setIpInfo: 5,
} as const;
/** Open enumeration: any u8 may arrive. */
export type KvpOperation = (typeof KvpOperation)[keyof typeof KvpOperation] | (number & {});

/** The five pools. */
export const KvpPool = {
  /** From the host's administrator to the guest. */
  external: 0,
  /** From programs of the guest to the host. */
  guest: 1,
  /** What the guest says of itself at each enumeration; stored nowhere. */
  auto: 2,
  /** What the host says of itself and of the virtual machine. */
  autoExternal: 3,
  /** Never exchanged: there is a file, which stays empty. */
  autoInternal: 4,
} as const;
/** Open enumeration: any u8 may arrive. */
export type KvpPool = (typeof KvpPool)[keyof typeof KvpPool] | (number & {});

/** How many pools there are. */
export const KVP_POOL_COUNT = 5;

/** How a value is written in a message. */
export const KvpValueType = {
  string: 1,
  /** Registry text with variables; a string to the guest. */
  expandString: 2,
  u32: 4,
  /** What FreeBSD and Linux define as the 64-bit type, and no Windows host sends. */
  u64Alias: 8,
  /** REG_QWORD. */
  u64: 11,
} as const;
/** Open enumeration: any u32 may arrive. */
export type KvpValueType = (typeof KvpValueType)[keyof typeof KvpValueType] | (number & {});

/** Sizes of the fields of a key and its value, in messages and in pool files alike. */
export const KvpLimit = {
  keyBytes: 512,
  valueBytes: 2048,
  /** What guests put into an answer at most, in UTF-16 units: more is cut by stock kernels. */
  answerKeyUnits: 254,
  answerValueUnits: 1022,
} as const;
