import {
  AdditionalSense,
  CodeSet,
  DesignatorType,
  emitBlockLimits,
  emitChannelProperties,
  emitDeviceIdentification,
  emitFixedSense,
  emitLogicalBlockProvisioning,
  emitModeSense6,
  emitProtocolVersion,
  emitReadCapacity10,
  emitReadCapacity16,
  emitReportLuns,
  emitRotationRate,
  emitSerialNumber,
  emitStandardInquiry,
  emitSupportedPages,
  FixedSense,
  ModeFlag,
  ModePage,
  Opcode,
  parseProtocolVersion,
  parseUnmapList,
  PeripheralType,
  PropertiesFlag,
  ProvisioningFlag,
  ProvisioningType,
  SenseKey,
  transferBlocks,
  transferLba,
  VpdPage,
  VstorOperation,
  WRITE_CACHE_ENABLED,
} from "../src/protocol/index.js";
import {
  reply,
  scsiReply,
  type HostRequest,
  type HostScript,
  type ScriptedHost,
  type ScsiAnswer,
} from "./scripted-host.js";

/** A disk in memory. */
export class RamDisk {
  readonly blockBytes: number;
  data: Uint8Array;
  serial: string;
  type: number = PeripheralType.disk;
  readOnly = false;
  writeCache = true;
  readonly unmapped: { lba: number; blocks: number }[] = [];

  constructor(blocks: number, serial: string, blockBytes = 512) {
    this.blockBytes = blockBytes;
    this.data = new Uint8Array(blocks * blockBytes);
    this.serial = serial;
  }

  get blocks(): number {
    return this.data.byteLength / this.blockBytes;
  }
}

/** How hosts answer for a LUN that is not there: with check condition, or with status good and nothing else. */
export type AbsentStyle = "openvmm" | "windows";

export interface RamTargetOptions {
  readonly versions?: readonly number[];
  readonly maxTransferBytes?: number;
  readonly subChannels?: number;
  readonly absent?: AbsentStyle;
  /** False: REPORT LUNS is refused. */
  readonly reportsLuns?: boolean;
}

export const good = (transferred = 0): ScsiAnswer => ({
  srbStatus: 0x01,
  scsiStatus: 0,
  transferred,
});

/** A failed command with sense data, as OpenVMM's disks fail it. */
export function failed(key: number, additionalSense: number, srbStatus = 0x84): ScsiAnswer {
  const sense = new Uint8Array(FixedSense.SIZE);
  emitFixedSense(sense, 0, key, additionalSense);
  return { srbStatus, scsiStatus: 2, sense };
}

const invalidField = failed(SenseKey.illegalRequest, AdditionalSense.invalidFieldInCdb, 0x86);

/** The script of a well-behaved host with disks in memory; `intercept` may answer any SCSI request first. */
export class RamTarget {
  /** Disks by `target:lun`. */
  readonly disks = new Map<string, RamDisk>();
  /** Undefined: the target answers. "hold": nobody does. */
  intercept:
    ((request: HostRequest, host: ScriptedHost) => ScsiAnswer | "hold" | undefined) | undefined;
  readonly options: Required<RamTargetOptions>;

  constructor(options: RamTargetOptions = {}) {
    this.options = {
      versions: [0x0600, 0x0501, 0x0402, 0x0200],
      maxTransferBytes: 0x40000,
      subChannels: 0,
      absent: "openvmm",
      reportsLuns: true,
      ...options,
    };
  }

  readonly script: HostScript = (request, host) => {
    const bytes = request.packet.byteLength;
    switch (request.operation) {
      case VstorOperation.beginInitialization:
      case VstorOperation.endInitialization:
        return reply(bytes);
      case VstorOperation.queryProtocolVersion: {
        const version = parseProtocolVersion(request.packet)!;
        const accepted = this.options.versions.includes(version.majorMinor);
        const packet = reply(bytes, accepted ? 0 : 0xc000_0059);
        emitProtocolVersion(packet, version);
        return packet;
      }
      case VstorOperation.queryProperties: {
        const packet = reply(bytes);
        const { subChannels, maxTransferBytes } = this.options;
        emitChannelProperties(packet, {
          subChannelCountMax: subChannels,
          flags: subChannels > 0 ? PropertiesFlag.multiChannel : 0,
          maxTransferBytes,
        });
        return packet;
      }
      case VstorOperation.executeSrb: {
        const answer = this.intercept?.(request, host) ?? this.answer(request, host);
        return answer === "hold" ? undefined : scsiReply(bytes, answer);
      }
      default:
        throw new Error(`the guest sent operation ${request.operation}`);
    }
  };

  answer(request: HostRequest, host: ScriptedHost): ScsiAnswer {
    const { targetId, lun, cdb } = request.scsi!;
    const disk = this.disks.get(`${targetId}:${lun}`);
    const send = (data: Uint8Array): ScsiAnswer =>
      good(host.write(request, data.subarray(0, request.scsi!.dataTransferLength)));
    if (cdb[0] === Opcode.reportLuns && this.options.reportsLuns) {
      if (this.options.absent === "windows" && !this.#anyAt(targetId)) return this.#absent();
      return send(this.#lunList(targetId, request.scsi!.dataTransferLength));
    }
    if (disk === undefined) {
      if (cdb[0] === Opcode.inquiry && this.options.absent === "openvmm") {
        if ((cdb[1]! & 1) !== 0) return invalidField;
        const data = new Uint8Array(36);
        data[0] = 0x7f;
        data[4] = 31;
        return send(data);
      }
      return this.#absent();
    }
    const buffer = new Uint8Array(512);
    switch (cdb[0]) {
      case Opcode.testUnitReady:
        return good();
      case Opcode.inquiry: {
        const allocation = (cdb[3]! << 8) | cdb[4]!;
        if ((cdb[1]! & 1) === 0) {
          const length = emitStandardInquiry(buffer, {
            peripheralQualifier: 0,
            peripheralType: disk.type,
            removable: false,
            version: 5,
            responseDataFormat: 2,
            additionalLength: 99,
            commandQueueing: true,
            vendor: "Msft",
            product: "Virtual Disk",
            revision: "1.0",
          });
          return send(buffer.subarray(0, Math.min(length, allocation)));
        }
        const length = this.#page(disk, cdb[2]!, buffer);
        if (length === 0) return invalidField;
        return send(buffer.subarray(0, Math.min(length, allocation)));
      }
      case Opcode.modeSense6: {
        const page = cdb[2]! & 0x3f;
        if (page !== ModePage.all && page !== ModePage.caching) return invalidField;
        const length = emitModeSense6(
          buffer,
          ModeFlag.dpoFua | (disk.readOnly ? ModeFlag.writeProtected : 0),
          disk.writeCache ? WRITE_CACHE_ENABLED : 0,
        );
        return send(buffer.subarray(0, Math.min(length, cdb[4]!)));
      }
      case Opcode.readCapacity10:
        emitReadCapacity10(buffer, { lastLba: disk.blocks - 1, blockBytes: disk.blockBytes });
        return send(buffer.subarray(0, 8));
      case Opcode.serviceActionIn16:
        emitReadCapacity16(buffer, {
          lastLba: disk.blocks - 1,
          blockBytes: disk.blockBytes,
          physicalExponent: disk.blockBytes === 512 ? 3 : 0,
          provisioned: true,
          unmappedReadsZero: false,
        });
        return send(buffer.subarray(0, 32));
      case Opcode.synchronizeCache10:
        return good();
      case Opcode.unmap:
        disk.unmapped.push(...parseUnmapList(host.read(request))!);
        return good(request.scsi!.dataTransferLength);
      default:
        return this.#transfer(disk, request, host);
    }
  }

  #transfer(disk: RamDisk, request: HostRequest, host: ScriptedHost): ScsiAnswer {
    const { cdb } = request.scsi!;
    const opcode = cdb[0]! & 0x1f;
    if (opcode !== 0x08 && opcode !== 0x0a)
      return failed(SenseKey.illegalRequest, AdditionalSense.invalidCommandOperationCode, 0x86);
    const first = transferLba(cdb, 0);
    const count = transferBlocks(cdb, 0);
    if (count === 0 || first + count > disk.blocks)
      return failed(SenseKey.illegalRequest, AdditionalSense.lbaOutOfRange, 0x86);
    const from = first * disk.blockBytes;
    const bytes = count * disk.blockBytes;
    if (opcode === 0x08) return good(host.write(request, disk.data.subarray(from, from + bytes)));
    if (disk.readOnly) return failed(SenseKey.dataProtect, AdditionalSense.writeProtected);
    disk.data.set(host.read(request), from);
    return good(bytes);
  }

  #page(disk: RamDisk, page: number, buffer: Uint8Array): number {
    switch (page) {
      case VpdPage.supportedPages:
        return emitSupportedPages(buffer, [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
      case VpdPage.unitSerialNumber:
        return emitSerialNumber(buffer, new TextEncoder().encode(disk.serial));
      case VpdPage.deviceIdentification: {
        const identifier = new Uint8Array(16).fill(0x60);
        identifier.set(new TextEncoder().encode(disk.serial).subarray(0, 12), 4);
        return emitDeviceIdentification(buffer, [
          { codeSet: CodeSet.binary, type: DesignatorType.naa, association: 0, identifier },
        ]);
      }
      case VpdPage.blockLimits:
        return emitBlockLimits(buffer, {
          transferBlocksMax: 0,
          transferBlocksOptimal: 0,
          unmapBlocksMax: 0xffff_ffff,
          unmapDescriptorsMax: 4096,
          unmapGranularity: 8,
          unmapAlignment: 0,
          writeSameBlocksMax: 0n,
        });
      case VpdPage.blockDeviceCharacteristics:
        return emitRotationRate(buffer, 1);
      case VpdPage.logicalBlockProvisioning:
        return emitLogicalBlockProvisioning(buffer, {
          thresholdExponent: 1,
          flags: ProvisioningFlag.unmap,
          provisioningType: ProvisioningType.thin,
        });
      default:
        return 0;
    }
  }

  #anyAt(target: number): boolean {
    return [...this.disks.keys()].some((key) => key.startsWith(`${target}:`));
  }

  #lunList(target: number, room: number): Uint8Array {
    const luns = [...this.disks.keys()]
      .filter((key) => key.startsWith(`${target}:`))
      .map((key) => Number(key.split(":")[1]))
      .sort((left, right) => left - right);
    const data = new Uint8Array(room);
    return data.subarray(0, emitReportLuns(data, luns));
  }

  #absent(): ScsiAnswer {
    return { srbStatus: 0x20, scsiStatus: this.options.absent === "openvmm" ? 2 : 0 };
  }
}
