import { expect } from "vitest";
import {
  GuestMemory,
  SendResult,
  gpaDirectHeaderBytes,
  putGpaRange,
  type ChannelHandler,
} from "@hyperv-is/vmbus-core";
import { DeviceClass, PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  VirtualTimers,
  connectedChannels,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import {
  Opcode,
  SrbPacket,
  VersionPacket,
  VstorOperation,
  emitTransferCdb,
  parseScsiReply,
  parseVstorHeader,
} from "@hyperv-is/hv-storvsc/protocol";
import {
  FaultPlan,
  RamDisk,
  ScsiDisk,
  StorvspController,
  type AsyncDiskBackend,
  type ChannelOpening,
  type DiskBackend,
  type Fault,
  type HostChannelHandler,
  type StorvspControllerOptions,
} from "@hyperv-is/hyperv-host";

export interface Reply {
  readonly type: number;
  readonly id: number;
  readonly bytes: Uint8Array;
}

const RING_PAGES = 2;
export const DATA = 16 * PAGE_SIZE;

/** What a rig is made of, unless all of it is as usual. */
export interface RigOptions extends StorvspControllerOptions {
  readonly faults?: readonly Fault[];
  /** The channel is a sub-channel. */
  readonly sub?: boolean;
  /** LUNs 0, 1, ...; unless told two RAM disks of 1 MiB at 0 and 5. */
  readonly disks?: readonly (DiskBackend | AsyncDiskBackend)[];
  /** Pages of each ring. */
  readonly ringPages?: number;
}

/** A packet with nothing but its header, which asks for a completion. */
export function vstorPacket(operation: number, sizeBytes = 64): Uint8Array {
  const packet = new Uint8Array(sizeBytes);
  const view = new DataView(packet.buffer);
  view.setUint32(0, operation, true);
  view.setUint32(4, 1, true);
  return packet;
}

/** A RAM disk of 1 MiB. */
export function smallDisk(): RamDisk {
  return new RamDisk({ sizeBytes: 2 ** 20, identity: new Uint8Array(16).fill(9) });
}

/** A guest made of bytes, in front of the real storage provider. */
export class Rig {
  readonly timers = new VirtualTimers();
  readonly replies: Reply[] = [];
  readonly violations: string[] = [];
  readonly written: [address: number, lengthBytes: number][] = [];
  readonly memory = new GuestMemory(new ArrayBuffer(64 * PAGE_SIZE));
  readonly controller: StorvspController;
  readonly pair: ConnectedChannels;
  subChannels = 0;
  rescinded = 0;
  reading = true;
  /** The host looks at what is sent. */
  working = true;
  readonly handler: HostChannelHandler;

  constructor(options: RigOptions = {}) {
    const { faults = [], sub = false, disks, ringPages = RING_PAGES, ...controller } = options;
    this.controller = new StorvspController(controller);
    const luns = disks?.entries() ?? [0, 5].map((lun) => [lun, smallDisk()] as const);
    for (const [lun, disk] of luns)
      this.controller.attach({ path: 0, target: 0, lun }, new ScsiDisk(disk));
    const opening: ChannelOpening = {
      key: 1,
      relid: 1,
      classId: DeviceClass.scsi.classId,
      instanceId: "5c51c000-0000-4000-8000-000000000000",
      subChannelIndex: 0,
      version: 0x00050003,
      features: 0,
      ringGpadlId: 1,
      ringPages: [],
      downstreamPageOffset: ringPages,
      interrupt: undefined,
      userData: new Uint8Array(120),
    };
    const context = {
      memory: this.memory,
      timers: this.timers,
      faults: new FaultPlan({ faults }, this.timers),
      dataWritten: (...range: [number, number]) => void this.written.push(range),
      gpadl: () => undefined,
      schedule: () => void this.pair.right.poll(1000),
      offerSubChannels: (count: number) => (this.subChannels += count),
      rescind: () => {
        this.rescinded++;
      },
      violation: (rule: string) => void this.violations.push(rule),
    };
    const open = (index: number): HostChannelHandler => {
      const handler = this.controller.open({ ...opening, subChannelIndex: index }, context);
      if (typeof handler === "number") throw new Error("refused");
      return handler;
    };
    const primary = open(0);
    this.handler = sub ? open(1) : primary;
    const guest: ChannelHandler = {
      packet: ({ incoming }) =>
        void this.replies.push({
          type: incoming.type,
          id: incoming.idLow,
          bytes: incoming.copyOut(incoming.headerBytes, incoming.payloadBytes),
        }),
      batchEnd: () => undefined,
      spaceArrived: () => undefined,
      closed: () => undefined,
    };
    this.pair = connectedChannels({
      left: guest,
      right: this.handler,
      ringPages,
      memory: this.memory,
    });
    this.handler.opened(this.pair.right);
  }

  get closedCode(): string | undefined {
    return this.pair.right.error?.code;
  }

  /** Sends a packet and lets the host work, and the guest read unless told not to. */
  send(bytes: Uint8Array, id = 1, range?: [number, number], flags = 1, type?: number): void {
    const { left } = this.pair;
    const header = range === undefined ? 16 : gpaDirectHeaderBytes(...range);
    const kind = type ?? (range === undefined ? PacketType.inBand : PacketType.gpaDirect);
    const result = left.begin(kind, flags, header, header + bytes.byteLength, id, 0);
    expect(result).toBe(SendResult.Ready);
    if (range !== undefined) putGpaRange(left.outgoing, ...range);
    left.outgoing.putBytes(bytes, 0, bytes.byteLength);
    left.outgoing.end();
    left.flush();
    if (!this.working) return;
    if (this.reading) this.pair.run();
    else this.pair.right.poll(1000);
  }

  control(operation: number, size = 64, fill?: (view: DataView) => void): Reply {
    const packet = vstorPacket(operation, size);
    fill?.(new DataView(packet.buffer));
    const before = this.replies.length;
    this.send(packet);
    expect(this.replies.length).toBe(before + 1);
    return this.replies.at(-1)!;
  }

  initialize(version = 0x0600): void {
    for (const operation of [
      VstorOperation.beginInitialization,
      VstorOperation.queryProtocolVersion,
      VstorOperation.queryProperties,
      VstorOperation.endInitialization,
    ]) {
      const { bytes } = this.control(operation, 64, (view) => {
        if (operation === VstorOperation.queryProtocolVersion)
          view.setUint16(VersionPacket.majorMinor, version, true);
      });
      expect(parseVstorHeader(bytes)!.status).toBe(0);
    }
  }

  request(cdb: (target: Uint8Array, at: number) => number, options: Partial<Request> = {}): void {
    const { size = 64, lun = 0, direction = 1, length = 0, id = 7 } = options;
    const packet = vstorPacket(VstorOperation.executeSrb, size);
    const view = new DataView(packet.buffer);
    view.setUint8(SrbPacket.lun, lun);
    view.setUint8(SrbPacket.dataIn, direction);
    view.setUint32(SrbPacket.dataTransferLength, length, true);
    view.setUint8(SrbPacket.cdbLength, cdb(packet, SrbPacket.cdb));
    const range = options.range ?? (length > 0 ? [DATA, length] : undefined);
    this.send(packet, id, range as [number, number] | undefined);
  }

  get last(): NonNullable<ReturnType<typeof parseScsiReply>> {
    return parseScsiReply(this.replies.at(-1)!.bytes)!;
  }
}

/** What a request differs in from the usual one. */
export interface Request {
  readonly size: number;
  readonly lun: number;
  readonly direction: number;
  readonly length: number;
  readonly id: number;
  readonly range: readonly [number, number];
}

export const read = (lba: number, blocks: number) => (target: Uint8Array, at: number) =>
  emitTransferCdb(target, at, false, lba, blocks, 10);
export const write = (lba: number, blocks: number) => (target: Uint8Array, at: number) =>
  emitTransferCdb(target, at, true, lba, blocks, 10);
export const testUnitReady = (target: Uint8Array, at: number): number => {
  target[at] = Opcode.testUnitReady;
  return 6;
};
