import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { getHeapStatistics } from "node:v8";
import { FaultPlan, type StorvspController } from "@hyperv-is/hyperv-host";
import { DiskSet } from "@hyperv-is/hyperv-host/node";
import {
  DataDirection,
  SrbPacket,
  VSTOR_PACKET_BYTES,
  VersionPacket,
  VstorOperation,
  VstorPacket,
  emitTransferCdb,
} from "@hyperv-is/hv-storvsc/protocol";
import {
  SendResult,
  gpaDirectHeaderBytes,
  putGpaRange,
  type Channel,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import {
  DeviceClass,
  PACKET_FLAG_COMPLETION_REQUESTED,
  Packet,
  PacketType,
} from "@hyperv-is/vmbus-core/protocol";
import {
  VirtualTimers,
  connectedChannels,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import { createGuestMemory } from "@hyperv-is/platform-node";
import { BenchmarkError } from "../benchmark.js";
import { cost, type MeasuringOptions } from "../comparison.js";
import type { BenchmarkResult } from "../report.js";
import { makeSparseImage } from "./sample-image.js";

const CONTROLLER_ID = "5c51be4c-0000-4000-8000-000000000000";
const TRANSFER_BYTES = 4096;
const BATCH = 32;
const BATCHES = 100;
const WARM_UPS = 4;
const RING_PAGES = 17;
const DATA_ADDRESS = 1 << 20;
const MEMORY_BYTES = 4 << 20;
const IMAGE_BYTES = 6 * 2 ** 30;
/** Offsets from here on do not fit into 32 bits, on the disk and in the file. */
const FIRST_POSITION = 5 * 2 ** 30;

/** Does 32 transfers, one after the other from a position on. */
type Batch = (position: number) => void;

/**
 * What the heap grows by per transfer in steady state, at offsets above 4 GiB: by the host's whole path from the ring to
 * the file and back, and of it by Node's call alone.
 */
export async function measureHostAllocation({
  runs,
  progress,
}: Pick<MeasuringOptions, "runs" | "progress">): Promise<BenchmarkResult[]> {
  progress("what the host allocates");
  const path = await makeSparseImage(IMAGE_BYTES);
  const source = { kind: "image", path } as const;
  const disks = await DiskSet.open([
    { instanceId: CONTROLLER_ID, disks: [{ path: 0, target: 0, lun: 0, source }] },
  ]);
  const file = openSync(path, "r+");
  try {
    const host = new HostPath(disks.controllers.get(CONTROLLER_ID)!);
    const buffer = new Uint8Array(TRANSFER_BYTES);
    // The image's data are the end of its file.
    const fileStart = statSync(path).size - IMAGE_BYTES;
    const inFile = (position: number, index: number): number =>
      fileStart + position + index * TRANSFER_BYTES;
    const batches: readonly (readonly [name: string, batch: Batch])[] = [
      ["heap of the host, reads", (position) => host.transfer(false, position)],
      [
        "of it by fs.readSync",
        (position) => {
          for (let index = 0; index < BATCH; index++)
            readSync(file, buffer, 0, TRANSFER_BYTES, inFile(position, index));
        },
      ],
      ["heap of the host, writes", (position) => host.transfer(true, position)],
      [
        "of it by fs.writeSync",
        (position) => {
          for (let index = 0; index < BATCH; index++)
            writeSync(file, buffer, 0, TRANSFER_BYTES, inFile(position, index));
        },
      ],
    ];
    return batches.map(([name, batch]) =>
      cost(name, bytesPerTransfer(batch, runs), "bytes per transfer", runs),
    );
  } finally {
    closeSync(file);
    await disks.close();
  }
}

/** The least of several rounds: others allocate too. One in which garbage was collected says nothing. */
function bytesPerTransfer(batch: Batch, runs: number): number {
  let least = Infinity;
  for (let round = -WARM_UPS; round < runs || least === Infinity; round++) {
    const before = getHeapStatistics().used_heap_size;
    for (let count = 0; count < BATCHES; count++)
      batch(FIRST_POSITION + count * BATCH * TRANSFER_BYTES);
    const grown = getHeapStatistics().used_heap_size - before;
    if (round >= 0 && grown >= 0) least = Math.min(least, grown / (BATCHES * BATCH));
  }
  return least;
}

/** The storage provider of the host between two rings, in one thread, with a guest that allocates nothing either. */
class HostPath {
  readonly #memory: GuestMemory = createGuestMemory(MEMORY_BYTES);
  readonly #pair: ConnectedChannels;
  readonly #packet = new Uint8Array(VSTOR_PACKET_BYTES);
  readonly #words = new Int32Array(this.#packet.buffer);
  readonly #view = new DataView(this.#packet.buffer);
  #answers = 0;

  constructor(controller: StorvspController) {
    const timers = new VirtualTimers();
    const service = controller.open(
      {
        key: 1,
        relid: 1,
        classId: DeviceClass.scsi.classId,
        instanceId: CONTROLLER_ID,
        subChannelIndex: 0,
        version: 0x0005_0003,
        features: 0,
        ringGpadlId: 1,
        ringPages: [],
        downstreamPageOffset: RING_PAGES,
        interrupt: undefined,
        userData: new Uint8Array(120),
      },
      {
        memory: this.#memory,
        timers,
        faults: FaultPlan.none(timers),
        gpadl: () => undefined,
        schedule: () => undefined,
        offerSubChannels: () => undefined,
        rescind: () => undefined,
        violation: (rule, detail) => {
          throw new Error(`${rule}: ${detail}`);
        },
      },
    );
    if (typeof service === "number") throw new Error("the controller refuses its channel");
    this.#pair = connectedChannels({
      left: {
        packet: () => this.#answers++,
        batchEnd: () => undefined,
        spaceArrived: () => undefined,
        closed: () => undefined,
      },
      right: service,
      ringPages: RING_PAGES,
      memory: this.#memory,
    });
    service.opened(this.#pair.right);
    this.#negotiate();
    this.#view.setUint32(VstorPacket.operation, VstorOperation.executeSrb, true);
    this.#view.setUint32(SrbPacket.dataTransferLength, TRANSFER_BYTES, true);
  }

  /** See `Batch`. */
  transfer(write: boolean, position: number): void {
    const channel = this.#pair.left;
    const direction = write ? DataDirection.toDevice : DataDirection.fromDevice;
    this.#view.setUint8(SrbPacket.dataIn, direction);
    for (let index = 0; index < BATCH; index++) {
      const lba = (position + index * TRANSFER_BYTES) / 512;
      emitTransferCdb(this.#packet, SrbPacket.cdb, write, lba, TRANSFER_BYTES / 512, 10);
      const address = DATA_ADDRESS + index * TRANSFER_BYTES;
      this.#begin(channel, PacketType.gpaDirect, gpaDirectHeaderBytes(address, TRANSFER_BYTES));
      putGpaRange(channel.outgoing, address, TRANSFER_BYTES);
      this.#end(channel);
    }
    this.#exchange(BATCH);
  }

  #negotiate(): void {
    for (const operation of [
      VstorOperation.beginInitialization,
      VstorOperation.queryProtocolVersion,
      VstorOperation.queryProperties,
      VstorOperation.endInitialization,
    ]) {
      this.#packet.fill(0);
      this.#view.setUint32(VstorPacket.operation, operation, true);
      if (operation === VstorOperation.queryProtocolVersion)
        this.#view.setUint16(VersionPacket.majorMinor, 0x0600, true);
      this.#begin(this.#pair.left, PacketType.inBand, Packet.descriptorBytes);
      this.#end(this.#pair.left);
      this.#exchange(1);
    }
    this.#packet.fill(0);
  }

  #begin(channel: Channel, type: PacketType, headerBytes: number): void {
    const bytes = headerBytes + VSTOR_PACKET_BYTES;
    const flags = PACKET_FLAG_COMPLETION_REQUESTED;
    if (channel.begin(type, flags, headerBytes, bytes, 1, 0) !== SendResult.Ready)
      throw new Error("the ring is full");
  }

  #end(channel: Channel): void {
    channel.outgoing.putWords(this.#words, 0, VSTOR_PACKET_BYTES / 4);
    channel.outgoing.end();
  }

  #exchange(answers: number): void {
    const before = this.#answers;
    this.#pair.left.flush();
    this.#pair.right.poll(2 * BATCH);
    this.#pair.left.poll(2 * BATCH);
    if (this.#answers - before !== answers) throw new BenchmarkError("the host did not answer");
  }
}
