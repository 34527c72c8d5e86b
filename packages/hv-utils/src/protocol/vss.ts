import { bytes, guid, record, u32, u64, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";

// Sources: OpenVMM `hyperv_ic_protocol/src/vss.rs`, FreeBSD `hv_snapshot.h`, Linux `include/uapi/linux/hyperv.h`.

/** What a host asks for around a backup. */
export const VssOperation = {
  create: 0,
  delete: 1,
  /** Can the guest be backed up while it runs? */
  hotBackup: 2,
  getDirectMapped: 3,
  backupComplete: 4,
  freeze: 5,
  thaw: 6,
  autoRecover: 7,
  queryGuestCluster: 8,
} as const;
/** Open enumeration: any u8 may arrive. */
export type VssOperation = (typeof VssOperation)[keyof typeof VssOperation] | (number & {});

/** `flags` of the answer to `hotBackup`: it can, without recovery by the host. */
export const VSS_HOT_BACKUP_POSSIBLE = 5;

/** In front of every body; all of an answer that says nothing else. */
export const VssHeader = record({ operation: u8(0) }, 8);
export type VssHeader = RecordOf<typeof VssHeader.fields>;

/** Body of an operation with flags: all but those about snapshot sets, LUNs and clusters. */
export const VssFlags = record({ operation: u8(0), flags: u32(8) });
export type VssFlags = RecordOf<typeof VssFlags.fields>;

/** Body of `freeze`, in front of its LUNs: `lunCount` of `VssLun`. */
export const VssFreeze = record({
  operation: u8(0),
  backupType: u32(8),
  flags: u32(12),
  lunCount: u32(16),
});
export type VssFreeze = RecordOf<typeof VssFreeze.fields>;

/** Bytes of the body of `freeze`, which has room for 260 LUNs. */
export const VSS_FREEZE_BYTES = 6260;

/** A disk that is backed up. */
export const VssLun = record(
  { busType: u8(0), controller: guid(4), port: u8(20), target: u8(21), lun: u8(22) },
  24,
);
export type VssLun = RecordOf<typeof VssLun.fields>;

/** What FreeBSD's driver and its daemon exchange by ioctl (`hv_vss_opt_msg`); operation 2 is freeze, 3 thaw, 1 the check. */
export const VssDeviceMessage = record({
  operation: u32(0),
  status: u32(4),
  messageId: u64(8),
  reserved: bytes(16, 48),
});
export type VssDeviceMessage = RecordOf<typeof VssDeviceMessage.fields>;

/** What Linux's driver and its daemon exchange (`hv_vss_msg`). In an answer an i32 status is in the place of the operation. */
export const LinuxVssMessage = record({ operation: u8(0), flags: u32(8) });
export type LinuxVssMessage = RecordOf<typeof LinuxVssMessage.fields>;

/** `operation` that registers a daemon of Linux; the kernel answers with the same number, as a u32. */
export const LINUX_VSS_REGISTER = 129;
