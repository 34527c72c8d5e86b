import {
  CdbFlag,
  CodeSet,
  DesignatorType,
  HYPERV_INQUIRY_BYTES,
  InquiryData,
  ProvisioningFlag,
  ProvisioningType,
  ScsiVersion,
  type StandardInquiry,
  VpdHeader,
  VpdPage,
  emitBlockLimits,
  emitDeviceIdentification,
  emitLogicalBlockProvisioning,
  emitRotationRate,
  emitSerialNumber,
  emitStandardInquiry,
  emitSupportedPages,
  emitVpdPage,
  microsoftPagingExtent,
  microsoftVirtualDevice,
} from "@hyperv-is/hv-storvsc/protocol";
import type { DiskBackend } from "./disk-backend.js";
import {
  type DiskCharacteristics,
  SERIAL_NUMBER_BYTES_MAX,
  WRITE_SAME_BYTES_MAX,
} from "./disk-characteristics.js";
import type { ScsiCommand } from "./scsi-command.js";

/** Standard INQUIRY data of a disk. */
export const presentInquiry: StandardInquiry = {
  peripheralQualifier: 0,
  peripheralType: 0,
  removable: false,
  version: ScsiVersion.spc3,
  responseDataFormat: 2,
  additionalLength: HYPERV_INQUIRY_BYTES - 5,
  commandQueueing: true,
  vendor: "Msft",
  product: "Virtual Disk",
  revision: "1.0",
};

/** Standard INQUIRY data where no disk is: only LUN 0 keeps the names. */
export function absentInquiry(lun: number): StandardInquiry {
  const absent = {
    ...presentInquiry,
    peripheralQualifier: 3,
    peripheralType: 0x1f,
    commandQueueing: false,
  };
  return lun === 0 ? absent : { ...absent, vendor: "", product: "", revision: "" };
}

/** Microsoft's identifier in a name of type NAA 6, in front of 12 bytes of the disk's own. */
const naaPrefix = [0x60, 0x02, 0x24, 0x80] as const;

const nameOfVendor = [0x4d, 0x73, 0x66, 0x74, 0x20, 0x20, 0x20, 0x20] as const;

const descriptorsMax = 4096;

/** The largest vital product data page is that of the serial number. */
const pageBytesMax = VpdHeader.SIZE + SERIAL_NUMBER_BYTES_MAX;

/**
 * INQUIRY: standard data or a vital product data page, cut to the allocation length.
 *
 * @param sectors - Logical sectors of the disk now, even while the guest does not know the new size yet.
 */
export function inquiry(
  command: ScsiCommand,
  disk: DiskBackend,
  characteristics: DiskCharacteristics,
  sectors: number,
): void {
  const { cdb, buffer, result } = command;
  const flags = cdb[1]!;
  const page = cdb[2]!;
  const allocation = command.u16(3);
  const vital = (flags & CdbFlag.enableVitalProductData) !== 0;
  const least = vital ? VpdHeader.SIZE : InquiryData.additionalLength + 1;
  if (
    allocation > buffer.lengthBytes ||
    allocation < least ||
    (flags & CdbFlag.commandSupportData) !== 0 ||
    (page !== 0 && !vital)
  ) {
    result.invalidRequest();
    return;
  }
  const target = command.scratch(pageBytesMax);
  const length = vital
    ? emitPage(target, page, disk, characteristics, sectors)
    : emitStandardInquiry(target, presentInquiry);
  if (length === 0) result.invalidRequest();
  else command.answer(target, Math.min(length, allocation));
}

/** Writes a vital product data page; returns its length, or 0 when the disk does not have it. */
function emitPage(
  target: Uint8Array,
  page: VpdPage,
  disk: DiskBackend,
  characteristics: DiskCharacteristics,
  sectors: number,
): number {
  if (!supportedPages(characteristics).includes(page)) return 0;
  switch (page) {
    case VpdPage.supportedPages:
      return emitSupportedPages(target, supportedPages(characteristics));
    case VpdPage.unitSerialNumber:
      return emitSerialNumber(target, characteristics.serialNumber);
    case VpdPage.deviceIdentification:
      return emitNames(target, disk.identity);
    case VpdPage.blockLimits:
      return emitBlockLimits(target, {
        transferBlocksMax: 0,
        transferBlocksOptimal: 0,
        unmapBlocksMax: 0xffff_ffff,
        unmapDescriptorsMax: descriptorsMax,
        // 0 would tell the guest that there is no UNMAP.
        unmapGranularity: Math.max(characteristics.unmapGranularityBlocks, 1),
        unmapAlignment: 0,
        writeSameBlocksMax: BigInt(
          Math.floor(
            Math.min(WRITE_SAME_BYTES_MAX, characteristics.transferBytesMax) /
              disk.logicalSectorBytes,
          ),
        ),
      });
    case VpdPage.blockDeviceCharacteristics:
      return emitRotationRate(target, characteristics.rotationRate);
    case VpdPage.logicalBlockProvisioning:
      return emitLogicalBlockProvisioning(target, {
        thresholdExponent: thresholdExponent(sectors),
        flags: ProvisioningFlag.unmap,
        provisioningType: ProvisioningType.thin,
      });
    case VpdPage.microsoftPagingExtent:
      return emitVpdPage(target, page, microsoftPagingExtent);
    case VpdPage.microsoftVirtualDevice:
      return emitVpdPage(target, page, microsoftVirtualDevice);
    default:
      return 0;
  }
}

/** Ascending, as page 00 lists them. */
function supportedPages({ serialNumber, unmap }: DiskCharacteristics): readonly VpdPage[] {
  return [
    VpdPage.supportedPages,
    ...(serialNumber.byteLength > 0 ? [VpdPage.unitSerialNumber] : []),
    VpdPage.deviceIdentification,
    ...(unmap
      ? [VpdPage.blockLimits, VpdPage.blockDeviceCharacteristics, VpdPage.logicalBlockProvisioning]
      : []),
    VpdPage.microsoftPagingExtent,
    VpdPage.microsoftVirtualDevice,
  ];
}

function emitNames(target: Uint8Array, identity: Uint8Array): number {
  const common = { codeSet: CodeSet.binary, association: 0 };
  return emitDeviceIdentification(target, [
    {
      ...common,
      type: DesignatorType.t10VendorId,
      identifier: Uint8Array.of(...nameOfVendor, ...identity),
    },
    {
      ...common,
      type: DesignatorType.naa,
      // The most random bytes of a GUID are its first and its last six.
      identifier: Uint8Array.of(...naaPrefix, ...identity.subarray(0, 6), ...identity.subarray(10)),
    },
  ]);
}

/** Smallest exponent, at least 1, for which the disk has fewer than 2^32 thresholds. */
function thresholdExponent(sectors: number): number {
  const thresholds = Math.max(Math.floor(sectors / 0x1_0000_0000), 1);
  return Math.max(32 - Math.clz32(thresholds - 1), 1);
}
