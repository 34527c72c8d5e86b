import { InquiryData, PeripheralType, ScsiVersion } from "./protocol/index.js";

const WIN8 = 0x0501;
const WIN81 = 0x0600;
const VENDOR_PREFIX = "Msft";

/**
 * Corrects what hosts are known to say wrongly in standard INQUIRY data, in place, as FreeBSD's driver does:
 * a Microsoft disk that calls itself SPC-2 although it has UNMAP and the pages of SPC-3 (5.1 and 6.0), and
 * a DVD drive without a version (5.1 and later).
 *
 * Only bytes that really came, and that the data's own length covers, are looked at. FreeBSD also patches
 * the answer for an absent LUN 0, so that its LUNs are asked for; here they are asked for in any case.
 */
export function patchInquiry(bytes: Uint8Array, protocolVersion: number): void {
  const told = (bytes[InquiryData.additionalLength] ?? 0) + InquiryData.additionalLength + 1;
  const covered = Math.min(bytes.byteLength, told);
  if (covered <= InquiryData.additionalLength) return;
  const version = bytes[InquiryData.version];
  if (bytes[InquiryData.peripheral] === PeripheralType.cdDvd) {
    if (version === ScsiVersion.none && protocolVersion >= WIN8)
      bytes[InquiryData.version] = ScsiVersion.spc3;
    return;
  }
  if (protocolVersion !== WIN8 && protocolVersion !== WIN81) return;
  const vendorEnd = InquiryData.vendor + VENDOR_PREFIX.length;
  if (version !== ScsiVersion.spc2 || covered < vendorEnd) return;
  const vendor = String.fromCharCode(...bytes.subarray(InquiryData.vendor, vendorEnd));
  if (vendor === VENDOR_PREFIX) bytes[InquiryData.version] = ScsiVersion.spc3;
}
