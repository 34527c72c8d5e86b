import {
  Opcode,
  VstorOperation,
  parseScsiRequest,
  parseVstorHeader,
  transferBlocks,
  transferLba,
} from "@hyperv-is/hv-storvsc/protocol";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { PacketRecord, Trace } from "@hyperv-is/hyperv-host/trace";
import { RamDisk, ScsiDisk, StorvspController } from "../../src/index.js";
import { altered } from "../scsi-rig.js";

/** A disk of the recorded host. */
export interface RecordedDisk {
  readonly path: number;
  readonly target: number;
  readonly lun: number;
  readonly sizeBytes: number;
  /** 16 bytes as hexadecimal digits. */
  readonly identity: string;
  readonly logicalSectorBytes?: number;
  readonly physicalSectorBytes?: number;
  readonly readOnly?: boolean;
}

/** A SCSI controller of the recorded host, as `StorvspControllerOptions` with its disks. */
export interface RecordedController {
  readonly instanceId: Guid;
  readonly versions?: readonly number[];
  readonly subChannelsMax?: number;
  readonly maxTransferBytes?: number;
  readonly absentLun?: "openvmm" | "windows";
  readonly disks: readonly RecordedDisk[];
}

const reads: ReadonlySet<number> = new Set([
  ...[Opcode.read6, Opcode.read10, Opcode.read12, Opcode.read16],
]);
const writes: ReadonlySet<number> = new Set([
  ...[Opcode.write6, Opcode.write10, Opcode.write12, Opcode.write16],
  ...[Opcode.writeAndVerify10, Opcode.writeAndVerify12, Opcode.writeAndVerify16],
  ...[Opcode.writeSame10, Opcode.writeSame16],
]);

/** The controllers of a recorded host, with disks that hold what the guest was seen to read. */
export class ReplayDisks {
  readonly controllers = new Map<Guid, StorvspController>();
  /** True if what the guest wrote is known, and so what reads must bring. */
  readonly isContentKnown: boolean;

  constructor(trace: Trace, recorded: readonly RecordedController[]) {
    const known = new Map<string, KnownDisk>();
    for (const { instanceId, disks, ...options } of recorded) {
      const controller = new StorvspController(options);
      for (const { path, target, lun, identity, ...ram } of disks) {
        const backend = new RamDisk({
          ...ram,
          // What it holds is put there before it is read-only.
          readOnly: false,
          identity: Uint8Array.from({ length: 16 }, (_, at) =>
            Number.parseInt(identity.slice(2 * at, 2 * at + 2), 16),
          ),
        });
        known.set(`${instanceId}/${path}:${target}:${lun}`, new KnownDisk(backend));
        controller.attach(
          { path, target, lun },
          new ScsiDisk(ram.readOnly ? altered(backend, { readOnly: true }) : backend),
        );
      }
      this.controllers.set(instanceId, controller);
    }
    this.isContentKnown = fill(trace, known);
  }
}

/** A disk, and which of its sectors the trace has told about. */
class KnownDisk {
  readonly #disk: RamDisk;
  readonly #sectors = new Set<number>();

  constructor(disk: RamDisk) {
    this.#disk = disk;
  }

  /** The guest wrote sectors: what they held before is never seen. */
  wrote(lba: number, blocks: number): void {
    for (let sector = lba; sector < lba + blocks; sector++) this.#sectors.add(sector);
  }

  /** The guest read sectors, from the first on as far as `bytes` go. */
  read(lba: number, bytes: Uint8Array): void {
    const size = this.#disk.logicalSectorBytes;
    for (let at = 0; at + size <= bytes.byteLength; at += size) {
      const sector = lba + at / size;
      if (this.#sectors.has(sector)) continue;
      this.#sectors.add(sector);
      this.#disk.write(sector * size, bytes, at, size);
    }
  }
}

/** Fills the disks. @returns False if data that the guest wrote is missing. */
function fill(trace: Trace, disks: ReadonlyMap<string, KnownDisk>): boolean {
  const instances = new Map<number, Guid>();
  const requests = new Map<string, Uint8Array>();
  let isKnown = true;
  for (const record of trace.records) {
    if (record.kind === "channel-opened") instances.set(record.channel, record.instanceId);
    if (record.kind !== "packet") continue;
    const key = `${record.channel}:${record.transactionId}`;
    const payload = record.bytes.subarray(record.headerBytes);
    const request = record.toGuest ? requests.get(key) : payload;
    if (!record.toGuest) requests.set(key, payload);
    const transfer = request && transferOf(request);
    if (transfer === undefined) continue;
    const disk = disks.get(`${String(instances.get(record.channel))}/${transfer.address}`);
    const { data } = record;
    if (record.toGuest && transfer.isRead)
      disk?.read(transfer.lba, data?.bytes ?? new Uint8Array(0));
    if (record.toGuest || transfer.isRead) continue;
    disk?.wrote(transfer.lba, transfer.blocks);
    if (transfer.blocks > 0 && data?.totalBytes !== data?.bytes.byteLength) isKnown = false;
    if (transfer.blocks > 0 && data === undefined) isKnown = false;
  }
  return isKnown;
}

interface Transfer {
  readonly address: string;
  readonly isRead: boolean;
  readonly lba: number;
  readonly blocks: number;
}

/** What a request moves, if it is a READ or WRITE. */
function transferOf(payload: Uint8Array): Transfer | undefined {
  if (parseVstorHeader(payload)?.operation !== VstorOperation.executeSrb) return undefined;
  const request = parseScsiRequest(payload);
  const opcode = request?.cdb[0] ?? -1;
  if (request === undefined || (!reads.has(opcode) && !writes.has(opcode))) return undefined;
  const cdb = new Uint8Array(16);
  cdb.set(request.cdb);
  const { pathId, targetId, lun } = request;
  return {
    address: `${pathId}:${targetId}:${lun}`,
    isRead: reads.has(opcode),
    lba: transferLba(cdb, 0),
    blocks: transferBlocks(cdb, 0),
  };
}

/** True if the data of a completion is what a READ brought. @param request - packet that it completes. */
export function isRead(request: PacketRecord | undefined): boolean {
  const payload = request?.bytes.subarray(request.headerBytes);
  return payload !== undefined && transferOf(payload)?.isRead === true;
}
