/** NTSTATUS values of channel messages. u32. */
export const NtStatus = {
  success: 0x0000_0000,
  /** OPENCHANNEL_RESULT, GPADL_CREATED. */
  unsuccessful: 0x8000_ffff,
  /** TL_CONNECT_RESULT. */
  connectionRefused: 0xc000_0236,
} as const;
/** Open enumeration: any u32 may arrive. */
export type NtStatus = (typeof NtStatus)[keyof typeof NtStatus] | (number & {});

/**
 * True if the status is a success or informational code, as a host decides. A guest takes only 0 for
 * success.
 */
export function isNtSuccess(status: NtStatus): boolean {
  return (status | 0) >= 0;
}
