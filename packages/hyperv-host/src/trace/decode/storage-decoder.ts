import {
  AdditionalSense,
  CdbFlag,
  DataDirection,
  NtStatus,
  Opcode,
  PropertiesFlag,
  SENSE_AREA_BYTES,
  SERVICE_ACTION_MASK,
  SRB_STATUS_CODE_MASK,
  ScsiStatus,
  SenseKey,
  ServiceAction,
  SrbStatus,
  SrbStatusFlag,
  VstorOperation,
  parseChannelProperties,
  parseFixedSense,
  parseProtocolVersion,
  parseScsiReply,
  parseScsiRequest,
  parseSubChannelCount,
  parseVstorHeader,
  transferBlocks,
  transferLba,
} from "@hyperv-is/hv-storvsc/protocol";
import type { Decoded, DecodedFields } from "./decoded.js";
import {
  commandName,
  constantName,
  flagNames,
  hex,
  hexBytes,
  standardName,
} from "./protocol-names.js";

/**
 * Decodes a packet of the storage protocol.
 *
 * @param payload - of the packet. @param request - payload of the packet that it completes, if it does.
 */
export function decodeStorage(payload: Uint8Array, request: Uint8Array | undefined): Decoded {
  const header = parseVstorHeader(payload);
  if (header === undefined) return { name: "VSTOR", fields: { problem: "too-short" } };
  const { operation, flags, status } = header;
  const name = constantName(VstorOperation, operation);
  if (operation !== VstorOperation.completeIo)
    return {
      name,
      fields: { ...(flags !== 1 && { flags }), ...operationFields(operation, payload) },
    };
  const of = request && parseVstorHeader(request)?.operation;
  return {
    name,
    fields: {
      ...(of !== undefined && { of: requestName(of, request!) }),
      status: constantName(NtStatus, status),
      ...(of === VstorOperation.executeSrb
        ? replyFields(payload)
        : of === VstorOperation.queryProperties
          ? propertiesFields(payload)
          : of === VstorOperation.queryProtocolVersion
            ? operationFields(of, payload)
            : {}),
    },
  };
}

function operationFields(operation: number, payload: Uint8Array): DecodedFields {
  if (operation === VstorOperation.executeSrb) return requestFields(payload);
  if (operation === VstorOperation.createSubChannels)
    return { count: parseSubChannelCount(payload) ?? 0 };
  if (operation !== VstorOperation.queryProtocolVersion) return {};
  const version = parseProtocolVersion(payload)?.majorMinor ?? 0;
  return { version: `${version >>> 8}.${version & 0xff}` };
}

/** What a completion is about: a SCSI command or an operation. */
function requestName(operation: number, request: Uint8Array): string {
  const cdb = operation === VstorOperation.executeSrb ? parseScsiRequest(request)?.cdb : undefined;
  return cdb === undefined ? constantName(VstorOperation, operation) : scsiCommand(cdb);
}

function requestFields(payload: Uint8Array): DecodedFields {
  const request = parseScsiRequest(payload);
  if (request === undefined) return { problem: "too-short" };
  const { pathId, targetId, lun, cdb, dataIn, dataTransferLength, length, extension } = request;
  return {
    command: scsiCommand(cdb),
    lun: `${pathId}:${targetId}:${lun}`,
    ...commandFields(cdb),
    cdb: hexBytes(cdb),
    direction: constantName(DataDirection, dataIn),
    dataBytes: dataTransferLength,
    length,
    ...(extension && {
      srbFlags: hex(extension.srbFlags),
      queueAction: hex(extension.queueAction),
      timeoutSeconds: extension.timeOutValueSeconds,
    }),
  };
}

const transfers: ReadonlySet<number> = new Set([
  ...[Opcode.read6, Opcode.read10, Opcode.read12, Opcode.read16],
  ...[Opcode.write6, Opcode.write10, Opcode.write12, Opcode.write16],
  ...[Opcode.verify10, Opcode.verify12, Opcode.verify16],
  ...[Opcode.writeAndVerify10, Opcode.writeAndVerify12, Opcode.writeAndVerify16],
  ...[Opcode.writeSame10, Opcode.writeSame16],
]);

function commandFields(cdb: Uint8Array): DecodedFields {
  const opcode = cdb[0]!;
  // A CDB that is cut off has zeros where the device looks.
  const whole = new Uint8Array(16);
  whole.set(cdb);
  if (transfers.has(opcode))
    return { lba: transferLba(whole, 0), blocks: transferBlocks(whole, 0) };
  if (opcode === Opcode.inquiry && (whole[1]! & CdbFlag.enableVitalProductData) !== 0)
    return { page: hex(whole[2]!) };
  if (opcode === Opcode.modeSense6 || opcode === Opcode.modeSense10)
    return { page: hex(whole[2]!) };
  return {};
}

/** Name of a command, by its service action where it has one. */
export function scsiCommand(cdb: Uint8Array): string {
  const [opcode = 0, action = 0] = cdb;
  const byAction =
    opcode === Opcode.serviceActionIn16
      ? commandName(ServiceAction, action & SERVICE_ACTION_MASK)
      : undefined;
  return byAction ?? commandName(Opcode, opcode) ?? `OPCODE ${hex(opcode)}`;
}

function replyFields(payload: Uint8Array): DecodedFields {
  const reply = parseScsiReply(payload);
  if (reply === undefined) return { problem: "too-short" };
  const { srbStatus, scsiStatus, dataTransferLength, sense } = reply;
  const flags = srbStatus & ~SRB_STATUS_CODE_MASK;
  const hasSense = (flags & SrbStatusFlag.autosenseValid) !== 0;
  return {
    srb: constantName(SrbStatus, srbStatus & SRB_STATUS_CODE_MASK),
    ...(flags !== 0 && { srbFlags: flagNames(SrbStatusFlag, flags) }),
    scsi: constantName(ScsiStatus, scsiStatus),
    dataBytes: dataTransferLength,
    ...(hasSense && { sense: senseText(sense) }),
  };
}

function senseText(sense: Uint8Array): string {
  const parsed = parseFixedSense(sense);
  if (parsed === undefined) return hexBytes(sense.subarray(0, SENSE_AREA_BYTES));
  const { deferred, key, additionalSense } = parsed;
  const two = (value: number): string => value.toString(16).padStart(2, "0");
  const numbers = `${key.toString(16)}/${two(additionalSense >>> 8)}/${two(additionalSense & 0xff)}`;
  const names = [standardName(SenseKey, key), standardName(AdditionalSense, additionalSense)];
  return [numbers, ...(deferred ? ["DEFERRED"] : []), ...names.filter(Boolean)].join(" ");
}

function propertiesFields(payload: Uint8Array): DecodedFields {
  const properties = parseChannelProperties(payload);
  if (properties === undefined) return { problem: "too-short" };
  const { subChannelCountMax, flags, maxTransferBytes } = properties;
  return { subChannelCountMax, flags: flagNames(PropertiesFlag, flags), maxTransferBytes };
}
