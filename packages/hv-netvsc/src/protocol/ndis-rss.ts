import { record, u16, u32, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { resized } from "./bytes.js";
import { NdisObjectType } from "./ndis-object.js";

// Receive side scaling. Sources: FreeBSD `ndis.h` and `hn_rndis.c`, Linux `rndis_filter.c`, OpenVMM `rndisprot.rs`.

const RssCapabilitiesFields = record({
  type: u8(0),
  revision: u8(1),
  size: u16(2),
  /** `RssCapability` bits. */
  flags: u32(4),
  interruptMessages: u32(8),
  receiveQueues: u32(12),
  /** From revision 2 on. */
  indirectionEntries: u16(16),
});

/** Value of `genReceiveScaleCapabilities`. */
export type NdisRssCapabilities = Omit<
  RecordOf<typeof RssCapabilitiesFields.fields>,
  "type" | "size"
>;

const rssCapabilitiesSizes = [16, 18] as const;

export const NdisRssCapabilities = {
  /** Bytes of revision 2; the C structure has 20. */
  SIZE: RssCapabilitiesFields.SIZE,
  fields: RssCapabilitiesFields.fields,
  /** Undefined if there are fewer than 16 bytes, the size of revision 1. */
  parse(bytes: Uint8Array): NdisRssCapabilities | undefined {
    return bytes.byteLength < rssCapabilitiesSizes[0]
      ? undefined
      : RssCapabilitiesFields.parse(resized(bytes, RssCapabilitiesFields.SIZE));
  },
  /** Revision 1 or 2. */
  emit(value: NdisRssCapabilities): Uint8Array<ArrayBuffer> {
    const size = rssCapabilitiesSizes[value.revision === 1 ? 0 : 1];
    const type = NdisObjectType.rssCapabilities;
    return RssCapabilitiesFields.emit({ ...value, type, size }).slice(0, size);
  },
} as const;

/** What a host can hash, and how it tells the guest. */
export const RssCapability = {
  toeplitz: 0x0000_0001,
  ipv4: 0x0000_0100,
  ipv6: 0x0000_0200,
  ipv6Extensions: 0x0000_0400,
  udp4: 0x0000_0800,
  udp6: 0x0000_1000,
  udp6Extensions: 0x0000_2000,
  messageSignaled: 0x0100_0000,
  classifiesInInterrupt: 0x0200_0000,
  classifiesInDeferredCall: 0x0400_0000,
  messageSignaledExtended: 0x0800_0000,
} as const;

/** Hash function and types: of RSS parameters, and of the hash info of a frame. */
export const RssHash = {
  toeplitz: 0x0_0001,
  ipv4: 0x0_0100,
  tcp4: 0x0_0200,
  ipv6: 0x0_0400,
  ipv6Extensions: 0x0_0800,
  tcp6: 0x0_1000,
  tcp6Extensions: 0x0_2000,
  udp4: 0x0_4000,
  udp6: 0x0_8000,
  udp6Extensions: 0x1_0000,
} as const;
/** Bits of the hash function in `hashInfo`; the others are types. */
export const RSS_HASH_FUNCTION_MASK = 0xff;

/** Flags of RSS parameters: what is to stay as it is, or all off. */
export const RssFlag = {
  baseCpuUnchanged: 0x01,
  hashUnchanged: 0x02,
  tableUnchanged: 0x04,
  keyUnchanged: 0x08,
  disable: 0x10,
  defaultProcessorUnchanged: 0x20,
} as const;

/** Entries of the indirection table that guests send: u32, each the index of a channel. */
export const RSS_TABLE_ENTRIES = 128;
/** Bytes of the key. */
export const RSS_KEY_BYTES = 40;
const ENTRY_BYTES = 4;

/** The fields of RSS parameters; offsets from their start. A size of 28 has those up to `keyOffset`. */
export const NdisRssParametersFields = record({
  type: u8(0),
  revision: u8(1),
  size: u16(2),
  flags: u16(4),
  baseCpu: u16(6),
  hashInfo: u32(8),
  tableBytes: u16(12),
  tableOffset: u32(16),
  keyBytes: u16(20),
  keyOffset: u32(24),
  cpuMaskOffset: u32(28),
  cpuMaskCount: u32(32),
  cpuMaskEntrySize: u32(36),
});
const REVISION_1_BYTES = 28;

/** Value of a SET of `genReceiveScaleParameters`. */
export interface NdisRssParameters {
  /** `RssFlag` bits. */
  readonly flags: number;
  /** `RssHash` bits. */
  readonly hashInfo: number;
  /** Indices of channels, 0 the primary one. */
  readonly table: readonly number[];
  readonly key: Uint8Array;
}

/**
 * Parses RSS parameters by their offsets; undefined if a part does not lie inside, or the table has part of an
 * entry. The object header is not looked at: FreeBSD counts table and key in its size, Linux does not.
 */
export function parseRssParameters(bytes: Uint8Array): NdisRssParameters | undefined {
  if (bytes.byteLength < REVISION_1_BYTES) return undefined;
  const fields = NdisRssParametersFields.parse(resized(bytes, NdisRssParametersFields.SIZE))!;
  const tablePart = part(bytes, fields.tableOffset, fields.tableBytes);
  const key = part(bytes, fields.keyOffset, fields.keyBytes);
  if (tablePart === undefined || key === undefined) return undefined;
  if (tablePart.byteLength % ENTRY_BYTES !== 0) return undefined;
  const view = new DataView(tablePart.buffer);
  const table = Array.from({ length: tablePart.byteLength / ENTRY_BYTES }, (_, index) =>
    view.getUint32(index * ENTRY_BYTES, true),
  );
  return { flags: fields.flags, hashInfo: fields.hashInfo, table, key };
}

/** A copy of a part; empty wherever it is said to lie if it has no bytes. */
function part(bytes: Uint8Array, at: number, lengthBytes: number): Uint8Array | undefined {
  if (lengthBytes === 0) return new Uint8Array(0);
  if (at > bytes.byteLength || lengthBytes > bytes.byteLength - at) return undefined;
  return bytes.slice(at, at + lengthBytes);
}

/** RSS parameters as FreeBSD 11 and later lays them out: the key, then the table. */
export function emitRssParameters(parameters: NdisRssParameters): Uint8Array<ArrayBuffer> {
  const keyOffset = NdisRssParametersFields.SIZE;
  const keyBytes = parameters.key.byteLength;
  const tableOffset = keyOffset + keyBytes;
  const tableBytes = parameters.table.length * ENTRY_BYTES;
  const size = tableOffset + tableBytes;
  const bytes = new Uint8Array(size);
  NdisRssParametersFields.write(bytes, {
    type: NdisObjectType.rssParameters,
    revision: 2,
    size,
    flags: parameters.flags,
    baseCpu: 0,
    hashInfo: parameters.hashInfo,
    tableBytes,
    tableOffset,
    keyBytes,
    keyOffset,
    cpuMaskOffset: 0,
    cpuMaskCount: 0,
    cpuMaskEntrySize: 0,
  });
  bytes.set(parameters.key, keyOffset);
  const view = new DataView(bytes.buffer);
  parameters.table.forEach((entry, index) => {
    view.setUint32(tableOffset + index * ENTRY_BYTES, entry, true);
  });
  return bytes;
}
