import { SRB_STATUS_CODE_MASK, SrbStatus } from "./srb.js";

/** The NTSTATUS values that a storage host puts into a packet's header. u32. */
export const NtStatus = {
  success: 0x0000_0000,
  bufferOverflow: 0x8000_0005,
  deviceBusy: 0x8000_0011,
  unsuccessful: 0xc000_0001,
  invalidParameter: 0xc000_000d,
  invalidDeviceRequest: 0xc000_0010,
  revisionMismatch: 0xc000_0059,
  deviceNotConnected: 0xc000_009d,
  ioTimeout: 0xc000_00b5,
  deviceDoesNotExist: 0xc000_00c0,
  cancelled: 0xc000_0120,
  invalidDeviceState: 0xc000_0184,
  ioDeviceError: 0xc000_0185,
} as const;
/** Open enumeration: any u32 may arrive. */
export type NtStatus = (typeof NtStatus)[keyof typeof NtStatus] | (number & {});

/**
 * The header status with which a host ends a request of this `srbStatus` (flags are masked off).
 *
 * Source: OpenVMM's storvsp. Guests only log it.
 */
export function ntStatusOfSrb(srbStatus: number): NtStatus {
  switch (srbStatus & SRB_STATUS_CODE_MASK) {
    case SrbStatus.success:
      return NtStatus.success;
    case SrbStatus.busy:
      return NtStatus.deviceBusy;
    case SrbStatus.invalidLun:
    case SrbStatus.invalidTargetId:
    case SrbStatus.noDevice:
    case SrbStatus.noHba:
      return NtStatus.deviceDoesNotExist;
    case SrbStatus.commandTimeout:
    case SrbStatus.timeout:
      return NtStatus.ioTimeout;
    case SrbStatus.selectionTimeout:
      return NtStatus.deviceNotConnected;
    case SrbStatus.badFunction:
    case SrbStatus.badSrbBlockLength:
      return NtStatus.invalidDeviceRequest;
    case SrbStatus.dataOverrun:
      return NtStatus.bufferOverflow;
    case SrbStatus.requestFlushed:
      return NtStatus.unsuccessful;
    case SrbStatus.aborted:
      return NtStatus.cancelled;
    default:
      return NtStatus.ioDeviceError;
  }
}
