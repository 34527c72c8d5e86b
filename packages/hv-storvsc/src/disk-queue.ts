import type { GpaRuns } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { StorvscError } from "./errors.js";
import { MemoryRun } from "./memory-run.js";
import { Outcome, outcomeOf } from "./outcome.js";
import {
  CDB_BYTES,
  DataDirection,
  emitSynchronizeCache10Cdb,
  emitUnmapCdb,
  parseFixedSense,
  SenseKey,
  UnmapDescriptor,
  UnmapList,
  unmapListBytes,
  type AdditionalSense,
  type Sense,
} from "./protocol/index.js";
import type { SlotOwner } from "./request-table.js";
import type { StorvscQueue } from "./storvsc-queue.js";

/** What `DiskQueue.submit` can do. */
export const DiskOperation = { read: 0, write: 1, flush: 2, unmap: 3 } as const;
export type DiskOperation = (typeof DiskOperation)[keyof typeof DiskOperation];

/** Where the completions of a `DiskQueue` go. */
export interface DiskCompletions {
  /**
   * The request of `slot` ended; the slot is free again, and the next request may be submitted right here.
   *
   * @param outcome - `ok` says that all bytes moved, and any other that they did not; after `unitAttention`
   *   the disk looks after itself, and the request is to be submitted again.
   * @param transferredBytes - Bytes that moved.
   */
  complete(slot: number, outcome: Outcome, transferredBytes: number): void;
}

/** The disk that a queue belongs to. */
export interface DiskQueueOwner {
  readonly target: number;
  readonly lun: number;
  readonly blockBytes: number;
  readonly gone: boolean;
  /** The disk sent news. */
  attention(additionalSense: AdditionalSense): void;
  /** The disk is not there any more. */
  lost(): void;
}

/** Distance of parameter lists: a descriptor's list fits, and none crosses a page. */
const LIST_STRIDE = 32;
const LIST_BYTES = unmapListBytes(1);

/**
 * The fast path to a disk: requests by slot, completions by call, nothing allocated per request.
 *
 * Requests are staged by `submit` and published by `flush`; inside a completion, the end of the batch
 * publishes. Every request that was accepted completes exactly once, with `Outcome.closed` if the channel
 * closes first. Used on the CPU of the disk's channel only.
 */
export class DiskQueue implements SlotOwner {
  /** Slots 0 to `depth` - 1. */
  readonly depth: number;
  readonly #disk: DiskQueueOwner;
  readonly #queue: StorvscQueue;
  readonly #completions: DiskCompletions;
  readonly #blockBytes: number;
  /** Slot of the channel for each slot here. */
  readonly #slots: Int32Array;
  readonly #busy: Uint8Array;
  readonly #lengths: Int32Array;
  readonly #runs: MemoryRun[] = [];
  readonly #flushCdb = new Uint8Array(CDB_BYTES);
  readonly #unmapCdb = new Uint8Array(CDB_BYTES);
  readonly #flushCdbLength: number;
  readonly #unmapCdbLength: number;
  /** GPA of the parameter lists of UNMAP. */
  readonly #lists: number;
  #listsLost = false;
  #inFlight = 0;
  #closed = false;

  /** Throws `ERR_STORVSC_SLOTS` or `ERR_STORVSC_MEMORY` when the channel has no room for it. */
  constructor(
    disk: DiskQueueOwner,
    queue: StorvscQueue,
    depth: number,
    completions: DiskCompletions,
  ) {
    if (!Number.isInteger(depth) || depth <= 0) throw new RangeError("at least one slot");
    if (depth > queue.freeSlots)
      throw new StorvscError("ERR_STORVSC_SLOTS", `only ${queue.freeSlots} slots are free`);
    this.depth = depth;
    this.#disk = disk;
    this.#queue = queue;
    this.#completions = completions;
    this.#blockBytes = disk.blockBytes;
    this.#flushCdbLength = emitSynchronizeCache10Cdb(this.#flushCdb, 0);
    this.#unmapCdbLength = emitUnmapCdb(this.#unmapCdb, 0, LIST_BYTES);
    const lists = queue.allocator.allocate(Math.ceil((depth * LIST_STRIDE) / PAGE_SIZE));
    if (lists === undefined)
      throw new StorvscError("ERR_STORVSC_MEMORY", "no room for parameter lists");
    this.#lists = lists;
    this.#busy = new Uint8Array(depth);
    this.#lengths = new Int32Array(depth);
    this.#slots = new Int32Array(depth);
    for (let slot = 0; slot < depth; slot++) {
      this.#slots[slot] = queue.claim(this, slot);
      const run = new MemoryRun();
      run.set(lists + slot * LIST_STRIDE, LIST_BYTES);
      this.#runs.push(run);
    }
  }

  /** Requests that have not completed. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /**
   * Stages a request.
   *
   * @param operation - One of `DiskOperation`. @param lba - First block, below 2^53; ignored by `flush`.
   * @param blocks - Blocks to read, write or unmap. The host checks them against the disk's size.
   * @param data - For `read` and `write`: guest memory of exactly `blocks` blocks, at most the disk's
   *   `maxTransferBytes`. List and memory belong to the request until it completes. A list whose inner
   *   ends lie at page boundaries goes to the host as it is, any other is copied as a whole.
   * @param slot - A slot without a request.
   * @returns False if the controller or the disk is gone: nothing was staged, nothing will complete.
   */
  submit(
    operation: DiskOperation,
    lba: number,
    blocks: number,
    data: GpaRuns | undefined,
    slot: number,
  ): boolean {
    if (this.#closed) throw new Error("the disk queue is closed");
    if (this.#busy[slot] !== 0) throw new Error(`slot ${slot} is busy, or there is none such`);
    if (this.#disk.gone) return false;
    const { target, lun } = this.#disk;
    const queue = this.#queue;
    const inner = this.#slots[slot]!;
    this.#lengths[slot] = 0;
    // Before the submission: a ring that turns out corrupt ends the request inside it.
    this.#busy[slot] = 1;
    this.#inFlight++;
    let accepted = false;
    try {
      if (operation === DiskOperation.read || operation === DiskOperation.write) {
        const lengthBytes = blocks * this.#blockBytes;
        if (data?.lengthBytes !== lengthBytes)
          throw new RangeError("data and blocks differ in length");
        this.#lengths[slot] = lengthBytes;
        const write = operation === DiskOperation.write;
        accepted = queue.submitTransfer(inner, target, lun, write, lba, blocks, data);
      } else if (operation === DiskOperation.flush) {
        const none = DataDirection.none;
        const length = this.#flushCdbLength;
        accepted = queue.submitCommand(inner, target, lun, this.#flushCdb, length, none, undefined);
      } else {
        this.#putList(this.#lists + slot * LIST_STRIDE, lba, blocks);
        const length = this.#unmapCdbLength;
        const run = this.#runs[slot];
        const out = DataDirection.toDevice;
        accepted = queue.submitCommand(inner, target, lun, this.#unmapCdb, length, out, run);
      }
    } finally {
      if (!accepted) {
        this.#busy[slot] = 0;
        this.#inFlight--;
      }
    }
    return accepted;
  }

  /** Publishes what was staged. */
  flush(): void {
    this.#queue.flush();
  }

  /** The sense data that came with a slot's last completion. */
  sense(slot: number): Sense | undefined {
    return parseFixedSense(this.#queue.sense(this.#slots[slot]!));
  }

  /** Ends the queue. What is in flight completes at the host, and nobody is told. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (let slot = 0; slot < this.depth; slot++)
      if (this.#busy[slot] === 0) this.#queue.release(this.#slots[slot]!);
    if (this.#inFlight === 0) this.#dropLists();
  }

  complete(tag: number, srbStatus: number, scsiStatus: number, transferred: number): void {
    let outcome = outcomeOf(srbStatus, scsiStatus);
    if (outcome === Outcome.ok) {
      if (transferred < this.#lengths[tag]!) outcome = Outcome.overrun;
    } else if (outcome === Outcome.checkCondition) {
      const sense = this.sense(tag);
      if (sense?.key === SenseKey.unitAttention) {
        outcome = Outcome.unitAttention;
        this.#disk.attention(sense.additionalSense);
      }
    } else if (outcome === Outcome.notThere) this.#disk.lost();
    this.#end(tag, outcome, transferred);
  }

  abandoned(tag: number, sent: boolean): void {
    // The host may still read the slot's parameter list.
    if (sent) this.#listsLost = true;
    this.#end(tag, Outcome.closed, 0);
  }

  #end(tag: number, outcome: Outcome, transferred: number): void {
    this.#busy[tag] = 0;
    this.#inFlight--;
    if (!this.#closed) {
      this.#completions.complete(tag, outcome, transferred);
      return;
    }
    this.#queue.release(this.#slots[tag]!);
    if (this.#inFlight === 0) this.#dropLists();
  }

  #dropLists(): void {
    const { allocator } = this.#queue;
    if (this.#listsLost) allocator.leak(this.#lists);
    else allocator.free(this.#lists);
  }

  /** Writes the parameter list of UNMAP for one range. */
  #putList(address: number, lba: number, blocks: number): void {
    const { bytes } = this.#queue.memory;
    bytes.fill(0, address, address + LIST_BYTES);
    bytes[address + UnmapList.dataLength + 1] = LIST_BYTES - 2;
    bytes[address + UnmapList.descriptorsLength + 1] = UnmapDescriptor.SIZE;
    const at = address + UnmapList.descriptors;
    putU32(bytes, at + UnmapDescriptor.lba, Math.floor(lba / 0x1_0000_0000));
    putU32(bytes, at + UnmapDescriptor.lba + 4, lba);
    putU32(bytes, at + UnmapDescriptor.blocks, blocks);
  }
}

/** Big-endian, as SCSI has it. */
function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}
