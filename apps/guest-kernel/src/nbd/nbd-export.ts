import type { DiskCompletions, DiskQueue, Outcome } from "@hyperv-is/hv-storvsc";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { GuestBuffer } from "../kernel/block-device.js";
import type { CamDisk, GuestSystem } from "../kernel/guest-system.js";
import { SLOT_PAGES } from "./connection-slots.js";
import type { ExportDescription } from "./handshake.js";
import { PAYLOAD_BYTES_MAX, TransmissionFlag } from "./protocol.js";

/** Running totals of an export. */
export interface ExportCounters {
  /** Clients that are in. */
  connections: number;
  requests: number;
  readBytes: number;
  writtenBytes: number;
  /** Requests that were answered with an error. */
  errors: number;
  /** Connections that were cut because the client did not keep to the protocol. */
  violations: number;
}

/** Requests of one client that are taken before the first is answered, and slots for their data. */
const DEPTH = 64;
/** A client is let in with so few, if the disk's channel has no more. */
const DEPTH_MIN = 8;
/** Slots of the channel that stay for commands of the guest itself. */
const SLOTS_FOR_GUEST = 32;
/** Clients of one export at a time. */
const CONNECTIONS_MAX = 16;
/** What a request should be a multiple of, unless the disk's physical blocks are larger. */
const PREFERRED_BLOCK_BYTES = 4096;

/** What a client of an export was given. */
export class Admission implements DiskCompletions {
  readonly disk: CamDisk;
  readonly memory: GuestMemory;
  readonly counters: ExportCounters;
  /** The fast path to the disk. */
  readonly queue: DiskQueue;
  /** The disk went while it had some of the memory: nobody may use that again. */
  isMemoryLost = false;
  /** Hears how what was submitted to `queue` ended. */
  onComplete: (slot: number, outcome: Outcome) => void = () => undefined;
  readonly #buffer: GuestBuffer;

  /** Throws what `CamDisk.openQueue` does. @param buffer - Guest memory, which is given back in the end. */
  constructor(
    disk: CamDisk,
    memory: GuestMemory,
    counters: ExportCounters,
    depth: number,
    buffer: GuestBuffer,
  ) {
    this.disk = disk;
    this.memory = memory;
    this.counters = counters;
    this.#buffer = buffer;
    this.queue = disk.openQueue(depth, this);
    counters.connections++;
  }

  /** GPA of as many slots as the queue has, and of two more: zeros, and room for what nobody looks at. */
  get address(): number {
    return this.#buffer.address;
  }

  complete(slot: number, outcome: Outcome): void {
    this.onComplete(slot, outcome);
  }

  /** Gives everything back, once nothing of it is in use. */
  release(): void {
    this.queue.close();
    this.counters.connections--;
    if (!this.isMemoryLost) this.#buffer.free();
  }
}

/** A disk of the guest as clients see it. It is looked up when one comes, so that it may go and come back. */
export class NbdExport {
  /** Name of the disk, and of the export: `da0`. */
  readonly name: string;
  readonly counters: ExportCounters = {
    connections: 0,
    requests: 0,
    readBytes: 0,
    writtenBytes: 0,
    errors: 0,
    violations: 0,
  };
  readonly #system: GuestSystem;
  readonly #memory: GuestMemory;

  constructor(name: string, system: GuestSystem, memory: GuestMemory) {
    this.name = name;
    this.#system = system;
    this.#memory = memory;
  }

  /** The disk as it is now; undefined when it is not there. */
  describe(): ExportDescription | undefined {
    const disk = this.#disk();
    if (disk === undefined) return undefined;
    const { sizeBytes, blockBytes, physicalBlockBytes } = disk.device;
    return {
      name: this.name,
      description: [disk.vendor, disk.product, disk.revision].join(" ").trim(),
      sizeBytes,
      flags: transmissionFlags(disk),
      minimumBlockBytes: blockBytes,
      preferredBlockBytes: Math.max(PREFERRED_BLOCK_BYTES, physicalBlockBytes),
      maximumPayloadBytes: PAYLOAD_BYTES_MAX,
    };
  }

  /** Sets aside what a client needs. @returns Why it cannot be let in, if so. */
  admit(): Admission | string {
    const disk = this.#disk();
    if (disk === undefined) return `${this.name} is gone`;
    if (this.counters.connections >= CONNECTIONS_MAX)
      return `${this.name} has ${CONNECTIONS_MAX} clients, more it does not take`;
    // Whoever comes first must not take all.
    const depth = Math.min(DEPTH, (disk.queueDepthMax - SLOTS_FOR_GUEST) >> 2);
    if (depth < DEPTH_MIN) return `the channel of ${this.name} has no room for another client`;
    let buffer: GuestBuffer | undefined;
    try {
      buffer = this.#system.allocateBuffer((depth + 2) * SLOT_PAGES * PAGE_SIZE);
      return new Admission(disk, this.#memory, this.counters, depth, buffer);
    } catch (error) {
      buffer?.free();
      const { code } = error as { readonly code?: unknown };
      if (code !== "ERR_NO_MEMORY" && code !== "ERR_STORVSC_MEMORY") throw error;
      return "the guest has no memory for another client";
    }
  }

  #disk(): CamDisk | undefined {
    return this.#system.disks.find(({ name }) => name === this.name);
  }
}

function transmissionFlags(disk: CamDisk): number {
  const flag = TransmissionFlag;
  // All clients share the disk and its cache, and a flush is one of the whole disk.
  const common = flag.hasFlags | flag.sendFlush | flag.sendFua | flag.canMultiConn | flag.sendCache;
  const rotational = disk.isRotational ? flag.rotational : 0;
  if (disk.device.readOnly) return common | rotational | flag.readOnly;
  const trim = disk.unmapSupported ? flag.sendTrim : 0;
  return common | rotational | trim | flag.sendWriteZeroes | flag.sendFastZero;
}
