import { describe, expect, test } from "vitest";
import vectorFile from "./vectors/storage.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";

interface Vector {
  readonly id: string;
  readonly kind: string;
  readonly len: number;
  readonly hex: string;
  readonly fields: Readonly<Partial<Record<string, number>>>;
}

const vectors: readonly Vector[] = vectorFile.vectors;

function bytesOf(vector: Vector): Uint8Array {
  return new Uint8Array(Buffer.from(vector.hex, "hex"));
}

function vectorBytes(id: string): Uint8Array {
  return bytesOf(vectors.find((vector) => vector.id === id)!);
}

/** Which payload a vstor vector has, told by what the reference named in it. */
function payloadOf({ id, fields }: Vector): string {
  if (fields["major_minor"] !== undefined) return "version";
  if (fields["max_channel_cnt"] !== undefined) return "properties";
  if (fields["sub_channel_count"] !== undefined) return "sub-channels";
  if (fields["srb_status"] !== undefined) return "reply";
  if (fields["cdb_len"] !== undefined) return "request";
  if (id === "fchba-data-reply") return "names";
  return "none";
}

/** Parses the payload, checks it against the named fields, and writes it into `target`. */
function roundTrip(vector: Vector, bytes: Uint8Array, target: Uint8Array): void {
  const { fields } = vector;
  switch (payloadOf(vector)) {
    case "version": {
      const version = protocol.parseProtocolVersion(bytes)!;
      expect(version).toEqual({ majorMinor: fields["major_minor"], revision: 0 });
      protocol.emitProtocolVersion(target, version);
      return;
    }
    case "properties": {
      const properties = protocol.parseChannelProperties(bytes)!;
      expect(properties).toEqual({
        subChannelCountMax: fields["max_channel_cnt"],
        flags: fields["prop_flags"],
        maxTransferBytes: fields["max_transfer_bytes"],
      });
      protocol.emitChannelProperties(target, properties);
      return;
    }
    case "sub-channels": {
      const count = protocol.parseSubChannelCount(bytes)!;
      expect(count).toBe(fields["sub_channel_count"]);
      protocol.emitSubChannelCount(target, count);
      return;
    }
    case "request": {
      const request = protocol.parseScsiRequest(bytes)!;
      expect(request).toMatchObject({
        length: fields["length"],
        port: fields["port"] ?? 0,
        pathId: 0,
        targetId: 0,
        lun: fields["lun"],
        senseInfoLength: fields["sense_len"],
        dataIn: fields["data_in"],
        dataTransferLength: fields["xfer"],
      });
      expect(request.cdb.byteLength).toBe(fields["cdb_len"]);
      expect(request.extension).toEqual(
        bytes.byteLength === 48
          ? undefined
          : {
              queueTag: fields["queue_tag"] ?? 0,
              queueAction: fields["queue_action"] ?? 0,
              srbFlags: fields["srb_flags"],
              timeOutValueSeconds: fields["timeout"],
              queueSortKey: 0,
            },
      );
      protocol.emitScsiRequest(target, request);
      return;
    }
    case "reply": {
      const reply = protocol.parseScsiReply(bytes)!;
      expect(reply).toMatchObject({
        length: 52,
        srbStatus: fields["srb_status"],
        scsiStatus: fields["scsi_status"],
        cdbLength: 16,
        senseInfoLength: 20,
        dataTransferLength: fields["xfer"],
      });
      const sense = protocol.parseFixedSense(reply.sense);
      if (fields["sense_key"] === undefined) expect(sense).toBeUndefined();
      else
        expect(sense).toEqual({
          deferred: false,
          key: fields["sense_key"],
          additionalSense: (fields["asc"]! << 8) | fields["ascq"]!,
        });
      expect(protocol.ntStatusOfSrb(reply.srbStatus)).toBe(fields["status"]);
      protocol.emitScsiReply(target, reply);
      return;
    }
    case "names": {
      const names = protocol.parseWorldWideNames(bytes)!;
      expect(names).toEqual({
        primaryActive: true,
        primaryPort: 0xc003ff0000ffff00n,
        primaryNode: 0xc003ff0000ffff00n,
        secondaryPort: 0xc003ff0000ffff01n,
        secondaryNode: 0xc003ff0000ffff01n,
      });
      protocol.emitWorldWideNames(target, names);
      return;
    }
    default:
      expect(bytes.subarray(protocol.VstorPacket.payload)).toEqual(
        new Uint8Array(bytes.byteLength - protocol.VstorPacket.payload),
      );
  }
}

describe("vstor packets", () => {
  const packets = vectors.filter((vector) => vector.kind === "vstor");
  test("are 37 vectors", () => {
    expect(packets).toHaveLength(37);
  });
  test.each(packets)("$id is parsed and emitted", (vector) => {
    const bytes = bytesOf(vector);
    expect(bytes.byteLength).toBe(vector.len);
    const header = protocol.parseVstorHeader(bytes)!;
    expect(header).toEqual({
      operation: vector.fields["operation"],
      flags: vector.fields["flags"],
      status: vector.fields["status"],
    });
    const target = new Uint8Array(vector.len).fill(0xa5);
    protocol.emitVstorHeader(target, header);
    roundTrip(vector, bytes, target);
    expect(target).toEqual(bytes);
  });
});

describe("the packets inside whole ring packets", () => {
  test.each([
    ["vmbus-inband-begin-init", "begin-init-64"],
    ["vmbus-inband-begin-init-48", "begin-init-48"],
    ["vmbus-gpadirect-read10-ofs200-2pages", "read10-lba8-4096-freebsd"],
    ["vmbus-completion-read-ok", "complete-read-ok"],
    ["vmbus-unsolicited-enumerate-bus", "enumerate-bus-64"],
  ])("%s carries %s", (outer, inner) => {
    const bytes = vectorBytes(outer);
    const view = new DataView(bytes.buffer);
    const packet = bytes.slice(view.getUint16(2, true) * 8, view.getUint16(4, true) * 8);
    const vector = vectors.find(({ id }) => id === inner)!;
    expect(packet).toEqual(bytesOf(vector));
    expect(protocol.parseVstorHeader(packet)?.operation).toBe(vector.fields["operation"]);
  });
});

/** A parse and an emit over one data buffer, and the record in between. */
interface DataFormat {
  readonly id: string;
  readonly parse: (bytes: Uint8Array) => unknown;
  readonly record: unknown;
  readonly emit: (target: Uint8Array) => number;
}

function format<T>(
  id: string,
  parse: (bytes: Uint8Array) => T | undefined,
  record: T,
  emit: (target: Uint8Array, record: T) => number,
): DataFormat {
  return { id, parse, record, emit: (target) => emit(target, record) };
}

const disk: protocol.StandardInquiry = {
  peripheralQualifier: 0,
  peripheralType: 0,
  removable: false,
  version: 5,
  responseDataFormat: 2,
  additionalLength: 99,
  commandQueueing: true,
  vendor: "Msft",
  product: "Virtual Disk",
  revision: "1.0",
};
const absent = { ...disk, peripheralQualifier: 3, peripheralType: 31, commandQueueing: false };
const diskId = Uint8Array.from({ length: 16 }, (_, index) => 0x10 + index);

const formats: readonly DataFormat[] = [
  format(
    "data-inquiry-disk-104",
    protocol.parseStandardInquiry,
    disk,
    protocol.emitStandardInquiry,
  ),
  format(
    "data-inquiry-absent-lun0",
    protocol.parseStandardInquiry,
    absent,
    protocol.emitStandardInquiry,
  ),
  format(
    "data-inquiry-absent-lun-other",
    protocol.parseStandardInquiry,
    { ...absent, vendor: "", product: "", revision: "" },
    protocol.emitStandardInquiry,
  ),
  format(
    "data-report-luns-0-1-5",
    protocol.parseReportLuns,
    { listBytes: 24, luns: [0, 1, 5] },
    (target, { luns }) => protocol.emitReportLuns(target, luns),
  ),
  format(
    "data-report-luns-empty",
    protocol.parseReportLuns,
    { listBytes: 0, luns: [] },
    (target, { luns }) => protocol.emitReportLuns(target, luns),
  ),
  format(
    "data-read-capacity10-127gib",
    protocol.parseReadCapacity10,
    { lastLba: 127 * 2 ** 21 - 1, blockBytes: 512 },
    protocol.emitReadCapacity10,
  ),
  format(
    "data-read-capacity10-over-2tib",
    protocol.parseReadCapacity10,
    { lastLba: protocol.CAPACITY_10_LIMIT, blockBytes: 512 },
    protocol.emitReadCapacity10,
  ),
  format(
    "data-read-capacity16-127gib-lbpme-4kphys",
    protocol.parseReadCapacity16,
    {
      lastLba: 127 * 2 ** 21 - 1,
      blockBytes: 512,
      physicalExponent: 3,
      provisioned: true,
      unmappedReadsZero: false,
    },
    protocol.emitReadCapacity16,
  ),
  format(
    "data-mode-sense6-caching-wce-fua",
    protocol.parseModeSense6,
    { writeProtected: false, dpoFua: true, writeCacheEnabled: true },
    (target) =>
      protocol.emitModeSense6(target, protocol.ModeFlag.dpoFua, protocol.WRITE_CACHE_ENABLED),
  ),
  format(
    "data-mode-sense10-caching-wce-fua",
    protocol.parseModeSense10,
    { writeProtected: false, dpoFua: true, writeCacheEnabled: true },
    (target) =>
      protocol.emitModeSense10(target, protocol.ModeFlag.dpoFua, protocol.WRITE_CACHE_ENABLED),
  ),
  format(
    "data-vpd00",
    protocol.parseSupportedPages,
    [0x00, 0x83, 0xb0, 0xb1, 0xb2, 0xce, 0xcf] as readonly number[],
    protocol.emitSupportedPages,
  ),
  format("data-vpd80-serial-ABC123", protocol.parseSerialNumber, "ABC123", (target, serial) =>
    protocol.emitSerialNumber(target, new TextEncoder().encode(serial)),
  ),
  format(
    "data-vpd83-id-10..1f",
    protocol.parseDeviceIdentification,
    [
      {
        codeSet: protocol.CodeSet.binary,
        type: protocol.DesignatorType.t10VendorId,
        association: 0,
        identifier: Uint8Array.from([...Buffer.from("Msft    "), ...diskId]),
      },
      {
        codeSet: protocol.CodeSet.binary,
        type: protocol.DesignatorType.naa,
        association: 0,
        identifier: Uint8Array.from([
          0x60,
          0x02,
          0x24,
          0x80,
          ...diskId.subarray(0, 6),
          ...diskId.subarray(10),
        ]),
      },
    ] as readonly protocol.Designator[],
    protocol.emitDeviceIdentification,
  ),
  format(
    "data-vpdb0",
    protocol.parseBlockLimits,
    {
      transferBlocksMax: 0,
      transferBlocksOptimal: 0,
      unmapBlocksMax: 0xffff_ffff,
      unmapDescriptorsMax: 4096,
      unmapGranularity: 1,
      unmapAlignment: 0,
      writeSameBlocksMax: 16384n,
    },
    protocol.emitBlockLimits,
  ),
  format(
    "data-vpdb1",
    protocol.parseRotationRate,
    protocol.RotationRate.nonRotating as number,
    protocol.emitRotationRate,
  ),
  format(
    "data-vpdb2",
    protocol.parseLogicalBlockProvisioning,
    {
      thresholdExponent: 1,
      flags: protocol.ProvisioningFlag.unmap,
      provisioningType: protocol.ProvisioningType.thin,
    },
    protocol.emitLogicalBlockProvisioning,
  ),
  format(
    "data-vpdce",
    (bytes) => [...protocol.vpdBody(bytes, protocol.VpdPage.microsoftPagingExtent)!],
    protocol.microsoftPagingExtent,
    (target, body) => protocol.emitVpdPage(target, protocol.VpdPage.microsoftPagingExtent, body),
  ),
  format(
    "data-vpdcf",
    (bytes) => [...protocol.vpdBody(bytes, protocol.VpdPage.microsoftVirtualDevice)!],
    protocol.microsoftVirtualDevice,
    (target, body) => protocol.emitVpdPage(target, protocol.VpdPage.microsoftVirtualDevice, body),
  ),
  format(
    "data-unmap-2-ranges",
    protocol.parseUnmapList,
    [
      { lba: 0x800, blocks: 0x1000 },
      { lba: 0x1_0000_0000, blocks: 0x10 },
    ] as readonly protocol.UnmapRange[],
    protocol.emitUnmapList,
  ),
  format(
    "data-sense-ua-2a09",
    protocol.parseFixedSense,
    {
      deferred: false,
      key: protocol.SenseKey.unitAttention,
      additionalSense: protocol.AdditionalSense.capacityDataChanged,
    },
    (target, sense) => {
      protocol.emitFixedSense(target, 0, sense.key, sense.additionalSense);
      return protocol.FixedSense.SIZE;
    },
  ),
];

describe("SCSI data", () => {
  test("has a format for each of the 20 vectors", () => {
    const ids = vectors.filter(({ kind }) => kind === "scsi-data").map(({ id }) => id);
    expect(ids).toHaveLength(20);
    expect(formats.map(({ id }) => id).sort()).toEqual(ids.sort());
  });
  test.each(formats)("$id is parsed and emitted", ({ id, parse, record, emit }) => {
    const bytes = vectorBytes(id);
    expect(parse(bytes)).toEqual(record);
    const target = new Uint8Array(bytes.byteLength).fill(0xa5);
    expect(emit(target)).toBe(bytes.byteLength);
    expect(target).toEqual(bytes);
  });
});
