import { SendResult, gpaDirectHeaderBytes, putGpaRange, type Channel } from "@hyperv-is/vmbus-core";
import {
  CloseChannel,
  GpadlTeardown,
  MessageType,
  PACKET_FLAG_COMPLETION_REQUESTED,
  PAGE_SIZE,
  Packet,
  PacketType,
  RelidReleased,
  Unload,
  formatVersion,
  type OfferChannel,
  type ProtocolVersion,
} from "@hyperv-is/vmbus-core/protocol";
import {
  DataDirection,
  StorageClassId,
  VSTOR_PACKET_BYTES,
  VstorOperation,
  emitInquiryCdb,
  emitProtocolVersion,
  emitReadCapacity16Cdb,
  emitScsiRequest,
  emitSubChannelCount,
  emitTransferCdb,
  emitVstorHeader,
} from "@hyperv-is/hv-storvsc/protocol";
import { MemorySink, TraceRecorder, readTrace, type Trace } from "@hyperv-is/hyperv-host/trace";
import {
  RamDisk,
  ScsiDisk,
  StorvspController,
  standardDevices,
  type DeviceOffer,
} from "../../src/index.js";
import type { GuestChannel } from "../guest-channel.js";
import { Machine } from "../scenario-machine.js";
import { memoryAtOffset } from "../scripted-guest.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import type { RecordedController } from "./replay-disks.js";
import type { RecordedHost } from "./trace-replay.js";

const SECTOR = 512;

const controllers: readonly RecordedController[] = [1, 2].map((number) => ({
  instanceId: `5c51c000-0000-4000-8000-00000000000${number}`,
  subChannelsMax: 1,
  disks: [
    { path: 0, target: 0, lun: 0, sizeBytes: 2 ** 20, identity: "a5".repeat(16) },
    { path: 0, target: 0, lun: 3, sizeBytes: 2 ** 21 * number, identity: `0${number}`.repeat(16) },
  ],
}));

/** A guest's requests to the disks of one channel. */
class Requests {
  readonly channel: Channel;
  readonly #guest: GuestChannel;
  readonly #machine: Machine;
  #nextId = 1;

  constructor(machine: Machine, guest: GuestChannel) {
    this.#machine = machine;
    this.#guest = guest;
    this.channel = guest.channel;
  }

  control(operation: number, fill: (packet: Uint8Array) => void = () => undefined): void {
    const packet = new Uint8Array(VSTOR_PACKET_BYTES);
    emitVstorHeader(packet, { operation, flags: 1, status: 0 });
    fill(packet);
    this.#put(packet);
    this.finish();
  }

  /** A command, put but not published: `finish` does that for all. */
  scsi(
    lun: number,
    dataIn: number,
    address: number,
    bytes: number,
    emitCdb: (cdb: Uint8Array) => number,
  ): void {
    const packet = new Uint8Array(VSTOR_PACKET_BYTES);
    emitVstorHeader(packet, { operation: VstorOperation.executeSrb, flags: 1, status: 0 });
    const cdb = new Uint8Array(16);
    const length = emitCdb(cdb);
    emitScsiRequest(packet, {
      ...{ length: 52, port: 0, pathId: 0, targetId: 0, lun, senseInfoLength: 20, dataIn },
      ...{ dataTransferLength: bytes, cdb: cdb.subarray(0, length) },
    });
    this.#put(packet, address, bytes);
  }

  transfer(lun: number, write: boolean, lba: number, blocks: number, address: number): void {
    const direction = write ? DataDirection.toDevice : DataDirection.fromDevice;
    this.scsi(lun, direction, address, blocks * SECTOR, (cdb) =>
      emitTransferCdb(cdb, 0, write, lba, blocks, 10),
    );
  }

  finish(): void {
    this.channel.flush();
    this.#machine.partition.run();
    this.#guest.poll();
  }

  #put(packet: Uint8Array, address = 0, bytes = 0): void {
    const header = bytes === 0 ? Packet.descriptorBytes : gpaDirectHeaderBytes(address, bytes);
    const result = this.channel.begin(
      bytes === 0 ? PacketType.inBand : PacketType.gpaDirect,
      PACKET_FLAG_COMPLETION_REQUESTED,
      header,
      header + packet.byteLength,
      this.#nextId++,
      // Ids are 64 bits wide.
      0x7fff_0000,
    );
    if (result !== SendResult.Ready) throw new Error("the ring is full");
    if (bytes > 0) putGpaRange(this.channel.outgoing, address, bytes);
    this.channel.outgoing.putBytes(packet, 0, packet.byteLength);
    this.channel.outgoing.end();
  }
}

/** Fills memory with bytes that tell rounds and places apart. */
function fill(machine: Machine, address: number, bytes: number, seed: number): void {
  for (let at = 0; at < bytes; at++)
    machine.memory.bytes[address + at] = (at * 7 + (at >> 9) * 13 + seed * 31) & 0xff;
}

/**
 * Records a session of a scripted guest: two controllers whose packets go by turns, several requests in one
 * publication, the same pages for one request after the other, a sub-channel where the version has them, a
 * controller that is rescinded and comes back, and a farewell.
 */
export function liveSession(version: ProtocolVersion): { trace: Trace; host: RecordedHost } {
  const sink = new MemorySink();
  const timers = new VirtualTimers();
  const recorder = new TraceRecorder({ sink, clock: timers, dataLimitBytes: 1 << 16 });
  const offers: DeviceOffer[] = controllers.map(({ instanceId }) => ({
    ...{ classId: StorageClassId.scsi, instanceId, flags: 1, worker: 0 },
  }));
  const machine = new Machine({ memory: memoryAtOffset(), timers, trace: recorder }, []);
  for (const offer of [...standardDevices(0), ...offers]) machine.partition.offer(offer);
  for (const { instanceId, disks, ...options } of controllers) {
    const controller = new StorvspController(options);
    for (const { path, target, lun, sizeBytes, identity } of disks) {
      const disk = new RamDisk({ sizeBytes, identity: Buffer.from(identity, "hex") });
      const content = Uint8Array.from({ length: 1 << 16 }, (_, at) => (at >> 8) + lun);
      disk.write(1 << 16, content, 0, content.byteLength);
      controller.attach({ path, target, lun }, new ScsiDisk(disk));
    }
    machine.partition.workers[0]!.serve({ classId: StorageClassId.scsi, instanceId }, controller);
  }

  const [interruptPage, toChild, toParent] = [900, 901, 902].map((page) => page * PAGE_SIZE);
  machine.connect(version, {
    ...(version < 0x5_0000 && { interruptPageGpa: interruptPage! }),
    parentToChildMonitorGpa: toChild!,
    childToParentMonitorGpa: toParent!,
  });
  const offered = machine.requestOffers();
  const relidOf = (number: number, among: readonly OfferChannel[] = offered): number =>
    among.find(({ instanceId }) => instanceId === controllers[number]!.instanceId)!.relid;
  const open = (relid: number): Requests => {
    const requests = new Requests(machine, machine.openChannel(relid));
    requests.control(VstorOperation.beginInitialization);
    requests.control(VstorOperation.queryProtocolVersion, (packet) =>
      emitProtocolVersion(packet, { majorMinor: 0x0602, revision: 0 }),
    );
    requests.control(VstorOperation.queryProtocolVersion, (packet) =>
      emitProtocolVersion(packet, { majorMinor: 0x0600, revision: 0 }),
    );
    requests.control(VstorOperation.queryProperties);
    requests.control(VstorOperation.endInitialization);
    return requests;
  };
  const both = [0, 1].map((number) => open(relidOf(number)));
  const rings = new Map([[relidOf(1), machine.rings!]]);
  const data = machine.pages(64);

  for (const requests of both) {
    requests.scsi(0, DataDirection.fromDevice, data + 100, 255, (cdb) =>
      emitInquiryCdb(cdb, 0, 255, 0x83),
    );
    requests.scsi(3, DataDirection.fromDevice, data + 1024, 32, (cdb) =>
      emitReadCapacity16Cdb(cdb, 0, 32),
    );
    requests.scsi(3, DataDirection.fromDevice, data + 2048, 32, (cdb) =>
      emitReadCapacity16Cdb(cdb, 0, 32),
    );
    // No disk is there.
    requests.scsi(9, DataDirection.fromDevice, data + 3072, 36, (cdb) =>
      emitInquiryCdb(cdb, 0, 36),
    );
    requests.finish();
  }
  for (let round = 0; round < 4; round++) {
    for (const [number, requests] of both.entries()) {
      timers.advance(0.5);
      // The pages of each round are those of the last, and of the other controller.
      fill(machine, data, 8 * PAGE_SIZE, round * 2 + number);
      requests.transfer(0, true, round * 8, 8, data);
      requests.transfer(3, true, 100 + round, 16, data + PAGE_SIZE + 512);
      requests.transfer(0, false, 128 + round * 4, 32, data + 16 * PAGE_SIZE);
      requests.finish();
      requests.transfer(0, false, round * 8, 8, data + PAGE_SIZE);
      requests.transfer(3, false, 100, 24, data + 2 * PAGE_SIZE);
      // Behind the end of the disk.
      requests.transfer(0, false, 2047, 2, data + 40 * PAGE_SIZE);
      requests.finish();
    }
  }
  if (version >= 0x2_0004) {
    both[0]!.control(VstorOperation.createSubChannels, (packet) => emitSubChannelCount(packet, 1));
    const sub = machine.listen().find(({ type }) => type === MessageType.offerChannel);
    const relid = (sub as unknown as OfferChannel).relid;
    const requests = new Requests(machine, machine.openChannel(relid));
    requests.transfer(0, false, 0, 16, data + 3 * PAGE_SIZE);
    requests.finish();
  }

  machine.partition.rescind(controllers[1]!.instanceId, 20);
  machine.listen();
  const relid = relidOf(1);
  machine.send(GpadlTeardown.emit({ relid, gpadlId: rings.get(relid)!.gpadlId }));
  machine.send(RelidReleased.emit({ relid }));
  timers.advance(20);
  const back = machine.listen() as unknown as OfferChannel[];
  const again = open(relidOf(1, back));
  again.transfer(3, false, 100, 24, data + 5 * PAGE_SIZE);
  again.finish();
  machine.send(CloseChannel.emit({ relid: relidOf(0) }));
  machine.send(Unload.emit({}));
  if (machine.brokenRules.length > 0) throw new Error(machine.brokenRules.join());
  recorder.flush();
  return {
    trace: readTrace(sink.bytes),
    host: { busCeiling: formatVersion(6 << 16), controllers },
  };
}
