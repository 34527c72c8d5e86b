import { record, u64, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { parsePrefix } from "./prefix.js";
import { icVersion, type IcVersion } from "./version.js";

/** Bits of `flags`; 0 is a probe, which is answered and changes nothing. */
export const TimeSyncFlag = {
  /** The guest is to set its clock now: after boot, resume, migration. */
  sync: 1 << 0,
  /** Information: what the host's clock says. */
  sample: 1 << 1,
} as const;

/** 100 ns units from the start of 1601 (the host's clock) to that of 1970. */
export const NT_TO_UNIX_100NS = 116_444_736_000_000_000n;

/** First message version with `TimeSync4` as body. */
export const TIME_SYNC_V4: IcVersion = icVersion(4);

/** Body of message versions 1.0 and 3.0, and of the answer, which echoes it. Source: OpenVMM. */
export const TimeSync = record(
  {
    /** The host's clock: UTC in 100 ns units since 1601. */
    parentTime: u64(0),
    /** Not used. */
    childTime: u64(8),
    /** 100 ns units. */
    roundTripTime: u64(16),
    /** `TimeSyncFlag` bits. */
    flags: u8(24),
  },
  28,
);
export type TimeSync = RecordOf<typeof TimeSync.fields>;

/** Body of message version 4.0, and of the answer, which echoes it. Source: OpenVMM; FreeBSD and Linux declare 22 bytes. */
export const TimeSync4 = record(
  {
    /** The host's clock: UTC in 100 ns units since 1601. */
    parentTime: u64(0),
    /** The machine's reference counter when that clock was read, in 100 ns units. */
    referenceTime: u64(8),
    /** `TimeSyncFlag` bits. */
    flags: u8(16),
    /** As in NTP. */
    leapIndicator: u8(17),
    stratum: u8(18),
  },
  24,
);
export type TimeSync4 = RecordOf<typeof TimeSync4.fields>;

/** Versions 1.0 and 3.0: all up to the flags must be there; undefined without. */
export function parseTimeSync(body: Uint8Array): TimeSync | undefined {
  return parsePrefix(TimeSync, body, 25);
}

/** Version 4.0: all up to the flags must be there; undefined without. */
export function parseTimeSync4(body: Uint8Array): TimeSync4 | undefined {
  return parsePrefix(TimeSync4, body, 17);
}
