import { guid, record, u16, u32, u64, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";

// The trace file: a header, then records, each of them whole. All fields little-endian. `docs/trace.md`
// describes it; the major version changes when an older reader would misunderstand a file.

/** The first 8 bytes of a trace: no text, and broken by whatever changes line ends. */
export const TRACE_MAGIC: readonly number[] = [0x89, 0x48, 0x56, 0x54, 0x52, 0x0d, 0x0a, 0x1a];

/** Version of the format that is written. Readers refuse another major version. */
export const TraceVersion = { major: 1, minor: 0 } as const;

/** The header of a trace, magic included. */
export const TraceHeader = record(
  {
    major: u16(8),
    minor: u16(10),
    /** Where the first record begins: a reader skips what it does not know. */
    headerBytes: u32(12),
    /** Size of guest memory. */
    memoryBytes: u64(16),
    /** Virtual processors of the guest. */
    vps: u32(24),
    /** Bytes of a request's data that were recorded at most. */
    dataLimitBytes: u32(28),
  },
  32,
);
export type TraceHeader = RecordOf<typeof TraceHeader.fields>;

/** What every record begins with. */
export const RecordHeader = record({
  /** Bytes of the record, this header included. */
  lengthBytes: u32(0),
  /** A `RecordKind`. */
  kind: u8(4),
  /** `RecordFlag` bits. */
  flags: u8(5),
  /** Virtual processor, or `NO_VP`. */
  vp: u16(6),
  /** Units of 100 ns since the trace began. */
  time: u64(8),
});
export type RecordHeader = RecordOf<typeof RecordHeader.fields>;

/** Virtual processor of a record that is about none. */
export const NO_VP = 0xffff;

/** Kinds of records. A reader skips those that it does not know. */
export const RecordKind = {
  /** A message that the guest posted: `GuestMessageBody`, then the message. */
  guestMessage: 1,
  /** A message of the host in a slot of the guest's: `HostMessageBody`, then the message. */
  hostMessage: 2,
  /** A synthetic register that has another value than in the last such record: `RegisterBody`. */
  register: 3,
  /** A host worker opens a channel: `ChannelBody`. */
  channelOpened: 4,
  /** A channel closes: `ClosedBody`. */
  channelClosed: 5,
  /** A ring packet: `PacketBody`, then the packet without its trailer. */
  packet: 6,
  /** Data of the packet before it on the same channel: `DataBody`, then as many bytes as were recorded. */
  data: 7,
} as const;
/** Open enumeration: any byte may arrive. */
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind] | (number & {});

/** Flags of records. */
export const RecordFlag = {
  /** Packets and data: on their way to the guest; otherwise to the host. */
  toGuest: 1,
  /** Messages of the host: the SINT took none, and the message was lost. */
  lost: 2,
} as const;

/** Behind the header of a `guestMessage`. */
export const GuestMessageBody = record({
  connectionId: u32(0),
  /** A `SynicMessageType`. */
  type: u32(4),
});

/** Behind the header of a `hostMessage`. */
export const HostMessageBody = record({ sint: u32(0) }, 8);

/** Behind the header of a `register`. */
export const RegisterBody = record({ msr: u32(0), value: u64(8) });

/** Behind the header of a `channelOpened`. */
export const ChannelBody = record({
  /** Names the channel from its opening to its close, and in no other opening. */
  channel: u32(0),
  relid: u32(4),
  classId: guid(8),
  instanceId: guid(24),
  subChannelIndex: u32(40),
  /** Version and granted `Feature` bits of the bus. */
  version: u32(44),
  features: u32(48),
  ringGpadlId: u32(52),
  /** Pages of the guest-to-host ring. */
  downstreamPageOffset: u32(56),
  /** The guest's event flag; 0 for a channel without interrupts. */
  eventFlag: u32(60),
});

/** Behind the header of a `channelClosed`. */
export const ClosedBody = record({
  channel: u32(0),
  /** Index in `closeReasons`. */
  reason: u32(4),
});

/** Why a channel closed, by number. */
export const closeReasons = ["closed", "rescinded", "corrupt"] as const;

/** Behind the header of a `packet`. */
export const PacketBody = record({ channel: u32(0) }, 8);

/** Behind the header of a `data`. */
export const DataBody = record({
  channel: u32(0),
  /** Bytes that there were; fewer may follow. */
  totalBytes: u32(4),
  transactionId: u64(8),
});

/** Units of time in a millisecond. */
export const TICKS_PER_MS = 10_000;
