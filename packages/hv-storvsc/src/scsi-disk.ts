import type { CommandExecutor, ScsiResult } from "./command-executor.js";
import {
  readCapacity,
  readDiskProperties,
  type DiskCapacity,
  type DiskIdentity,
  type DiskProperties,
  type UnmapLimits,
} from "./disk-properties.js";
import { DiskQueue, type DiskCompletions, type DiskQueueOwner } from "./disk-queue.js";
import { ScsiError } from "./errors.js";
import { LogicalUnit, type UnitCommand } from "./logical-unit.js";
import {
  AdditionalSense,
  CDB_BYTES,
  DataDirection,
  emitGetLbaStatusCdb,
  emitSynchronizeCache10Cdb,
  emitUnmapCdb,
  emitUnmapList,
  LbaStatusDescriptor,
  LbaStatusList,
  parseLbaStatusList,
  unmapListBytes,
  type LbaExtent,
  type StandardInquiry,
  type UnmapRange,
} from "./protocol/index.js";
import { scanUnit, type FoundUnit } from "./scan.js";
import { unmapBatches } from "./unmap-batches.js";

/** What a disk tells its controller. */
export interface DiskEvents {
  /** Capacity, limits or flags are not what they were. */
  changed(disk: ScsiDisk, resized: boolean): void;
  /** The unit is not there any more, or is another disk now. */
  lost(disk: ScsiDisk): void;
  /** The disk says that the controller's LUNs are not what they were. */
  lunsChanged(): void;
}

/** What is known about a disk: plain data, from which any CPU with a channel to its controller makes a face of it. */
export interface DiskDescription extends Pick<
  FoundUnit,
  "target" | "lun" | "inquiry" | "inquiryData"
> {
  readonly properties: DiskProperties;
}

/** Requests that one `read` or `write` keeps in flight when it is larger than the largest transfer. */
const PIECES_IN_FLIGHT = 8;
/** The parameter list of UNMAP has a u16 length. */
const UNMAP_LIST_BYTES_MAX = 0xffff;
/** Extents that one GET LBA STATUS may bring. */
const LBA_EXTENTS_MAX = 128;
/** A disk refuses a command that it does not have, or an action of it, with one of these. */
const noSuchCommand: ReadonlySet<number> = new Set([
  AdditionalSense.invalidCommandOperationCode,
  AdditionalSense.invalidFieldInCdb,
]);
/** All additional sense codes of resets. */
const RESET_CODE = AdditionalSense.busReset >>> 8;

/**
 * A disk: what it is, a fast path, and a promise layer on top.
 *
 * The promises reject with `ScsiError`, or with `StorvscError` when the controller goes away. They retry as
 * FreeBSD and Linux do (busy, resets, aborts, and unit attentions once acted on), and split what is larger than the
 * largest transfer. Data that lies in guest memory is not copied, and must stay untouched until the promise
 * settles; any other array is copied.
 */
export class ScsiDisk implements DiskQueueOwner {
  readonly target: number;
  readonly lun: number;
  /** Standard INQUIRY data, and the bytes that it was parsed from. */
  readonly inquiry: StandardInquiry;
  readonly inquiryData: Uint8Array;
  /** Bytes of the largest request; the promise layer splits above it, `DiskQueue.submit` throws. */
  readonly maxTransferBytes: number;
  readonly #version: number;
  readonly #executor: CommandExecutor;
  readonly #events: DiskEvents;
  readonly #unit: LogicalUnit;
  #properties: DiskProperties;
  #gone: Error | undefined;
  #tellsLbaStatus = true;
  /** Ends when the last of the looks at the disk has ended. */
  #looks: Promise<unknown> = Promise.resolve();
  /** The look at everything that has not begun. */
  #nextLook: Promise<void> | undefined;

  /** Makes a face of a disk whose description is known, over the executor's channel. */
  constructor(executor: CommandExecutor, description: DiskDescription, events: DiskEvents) {
    const { target, lun, inquiry, inquiryData, properties } = description;
    this.target = target;
    this.lun = lun;
    this.inquiry = inquiry;
    this.inquiryData = inquiryData;
    const { version, maxTransferBytes } = executor.queue.parameters!;
    this.maxTransferBytes = maxTransferBytes;
    this.#version = version;
    this.#executor = executor;
    this.#events = events;
    this.#properties = properties;
    this.#unit = new LogicalUnit(executor, target, lun);
    this.#unit.onAttention = (additionalSense) => this.#act(additionalSense);
  }

  /** Asks what was found all that a disk has to say. Rejects with `ScsiError` or `StorvscError`. */
  static async attach(
    executor: CommandExecutor,
    found: FoundUnit,
    events: DiskEvents,
  ): Promise<ScsiDisk> {
    const unit = new LogicalUnit(executor, found.target, found.lun);
    const { version, maxTransferBytes } = executor.queue.parameters!;
    const properties = await readDiskProperties(unit, found.inquiry, version);
    const { blockBytes } = properties.capacity;
    if (blockBytes > maxTransferBytes)
      throw new ScsiError("ERR_SCSI_UNSUPPORTED", `blocks of ${blockBytes} bytes`);
    return new ScsiDisk(executor, { ...found, properties }, events);
  }

  /** What another CPU makes its face of the disk from. */
  get description(): DiskDescription {
    const { target, lun, inquiry, inquiryData } = this;
    return { target, lun, inquiry, inquiryData, properties: this.#properties };
  }

  /** Without padding, as are `product` and `revision`: for example `Msft`, `Virtual Disk`, `1.0`. */
  get vendor(): string {
    return this.inquiry.vendor;
  }

  get product(): string {
    return this.inquiry.product;
  }

  get revision(): string {
    return this.inquiry.revision;
  }

  get capacity(): DiskCapacity {
    return this.#properties.capacity;
  }

  /** Logical blocks. */
  get blocks(): number {
    return this.#properties.capacity.blocks;
  }

  get blockBytes(): number {
    return this.#properties.capacity.blockBytes;
  }

  get physicalBlockBytes(): number {
    return this.#properties.capacity.physicalBlockBytes;
  }

  /** Exact up to 2^53. */
  get sizeBytes(): number {
    return this.blocks * this.blockBytes;
  }

  get identity(): DiskIdentity {
    return this.#properties.identity;
  }

  get writeProtected(): boolean {
    return this.#properties.writeProtected;
  }

  /** The disk has a volatile cache, or did not say that it has none: what must last has to be flushed. */
  get writeCache(): boolean {
    return this.#properties.writeCache;
  }

  /** How the disk takes UNMAP; undefined when it does not. */
  get unmapLimits(): UnmapLimits | undefined {
    return this.#properties.unmap;
  }

  /** Revolutions per minute; 1 for a disk without, 0 when not told. */
  get rotationRate(): number {
    return this.#properties.rotationRate;
  }

  /** Depth that `openQueue` can give now: what other queues of the controller have not taken. */
  get queueDepthMax(): number {
    return this.#executor.queue.freeSlots;
  }

  /** The disk was removed, or replaced by another: it never comes back in this object. */
  get gone(): boolean {
    return this.#gone !== undefined;
  }

  /**
   * Opens a fast path with `depth` slots. Throws `StorvscError` `ERR_STORVSC_SLOTS` or
   * `ERR_STORVSC_MEMORY` when the channel has no room for it.
   */
  openQueue(depth: number, completions: DiskCompletions): DiskQueue {
    return new DiskQueue(this, this.#executor.queue, depth, completions);
  }

  /** Reads whole blocks from `lba` on into all of `target`. */
  read(lba: number, target: Uint8Array): Promise<void> {
    return this.#transfer(false, lba, target);
  }

  /** Writes all of `source`, whole blocks, from `lba` on. The data may stay in the disk's cache until `flush`. */
  write(lba: number, source: Uint8Array): Promise<void> {
    return this.#transfer(true, lba, source);
  }

  /** Resolves when everything whose write had resolved is on the medium. */
  async flush(): Promise<void> {
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitSynchronizeCache10Cdb(cdb, 0);
    await this.perform({
      name: "SYNCHRONIZE CACHE(10)",
      command: cdb.subarray(0, length),
      direction: DataDirection.none,
    });
  }

  /** Tells the disk that blocks are no longer needed. Rejects with `ERR_SCSI_UNSUPPORTED` if it does not take that. */
  async unmap(ranges: readonly UnmapRange[]): Promise<void> {
    const limits = this.unmapLimits;
    if (limits === undefined)
      throw new ScsiError("ERR_SCSI_UNSUPPORTED", `${this.#name()} does not take UNMAP`);
    const listBytesMax = Math.min(this.maxTransferBytes, UNMAP_LIST_BYTES_MAX);
    const rangesMax = Math.min(
      limits.rangesMax,
      Math.floor((listBytesMax - unmapListBytes(0)) / unmapListBytes(1)),
    );
    for (const batch of unmapBatches(ranges, rangesMax, limits.blocksMax)) {
      const data = new Uint8Array(unmapListBytes(batch.length));
      emitUnmapList(data, batch);
      const cdb = new Uint8Array(CDB_BYTES);
      const length = emitUnmapCdb(cdb, 0, data.byteLength);
      await this.perform({
        name: "UNMAP",
        command: cdb.subarray(0, length),
        direction: DataDirection.toDevice,
        data,
      });
    }
  }

  /**
   * Which blocks from `lba` on take room on the medium: extents in a row, as many as one command brings, at least one.
   * Undefined when the disk does not tell, which it is asked once.
   */
  async lbaStatus(lba: number): Promise<readonly LbaExtent[] | undefined> {
    if (!this.#tellsLbaStatus) return undefined;
    const data = new Uint8Array(
      LbaStatusList.descriptors + LBA_EXTENTS_MAX * LbaStatusDescriptor.SIZE,
    );
    const cdb = new Uint8Array(CDB_BYTES);
    const length = emitGetLbaStatusCdb(cdb, 0, lba, data.byteLength);
    let answer: Uint8Array;
    try {
      const result = await this.perform({
        name: `GET LBA STATUS from ${lba} on`,
        command: cdb.subarray(0, length),
        direction: DataDirection.fromDevice,
        data,
      });
      answer = data.subarray(0, result.transferredBytes);
    } catch (error) {
      const additional = error instanceof ScsiError ? error.sense?.additionalSense : undefined;
      if (additional === undefined || !noSuchCommand.has(additional)) throw error;
      this.#tellsLbaStatus = false;
      return undefined;
    }
    const extents: LbaExtent[] = [];
    let next = lba;
    for (const extent of parseLbaStatusList(answer) ?? []) {
      // What does not follow on what came before tells nothing.
      if (extent.lba !== next || extent.blocks === 0) break;
      extents.push(extent);
      next += extent.blocks;
    }
    return extents.length > 0 ? extents : undefined;
  }

  /** TEST UNIT READY: also how news about an idle disk is fetched. */
  testReady(): Promise<void> {
    return this.#guarded(() => this.#unit.testUnitReady());
  }

  /** Sends any command, with retries. */
  perform(command: UnitCommand): Promise<ScsiResult> {
    return this.#guarded(() => this.#unit.perform(command));
  }

  attention(additionalSense: AdditionalSense): void {
    // Whatever goes wrong with it, the next command meets again.
    this.#act(additionalSense).catch(() => undefined);
  }

  lost(): void {
    this.#leave(new ScsiError("ERR_SCSI_NOT_THERE", `${this.#name()} is gone`));
  }

  /** Another disk has taken this one's place. */
  replaced(): void {
    this.#leave(new ScsiError("ERR_SCSI_DISK_CHANGED", `another disk is at ${this.#name()} now`));
  }

  /** The controller, or this CPU's channel to it, goes away, and the disk with it. Tells nobody. */
  end(reason: Error): void {
    this.#gone ??= reason;
  }

  /** Takes over what another CPU has found out. @returns False if that is about another disk. */
  follow({ inquiry, properties }: DiskDescription): boolean {
    if (!this.#isSame(inquiry, properties)) return false;
    this.#properties = properties;
    return true;
  }

  /**
   * Asks again for everything that may have changed; calls share a look that has not begun. A unit that
   * turns out to be another disk ends this object.
   */
  lookAgain(): Promise<void> {
    this.#nextLook ??= this.#inTurn(() => {
      this.#nextLook = undefined;
      return this.#readAgain();
    });
    return this.#nextLook;
  }

  /** What there is to know about the disk, as plain JSON. */
  inspect(): Record<string, unknown> {
    const { capacity, identity, unmap, writeProtected, writeCache, rotationRate } =
      this.#properties;
    return {
      target: this.target,
      lun: this.lun,
      vendor: this.vendor,
      product: this.product,
      revision: this.revision,
      ...capacity,
      serial: identity.serial ?? null,
      name: identity.name ?? null,
      writeProtected,
      writeCache,
      rotationRate,
      unmap: unmap === undefined ? null : { ...unmap },
      maxTransferBytes: this.maxTransferBytes,
      gone: this.gone,
    };
  }

  /** One command after another of a large transfer, several at a time; settles when none is in flight. */
  async #transfer(write: boolean, lba: number, data: Uint8Array): Promise<void> {
    const { blockBytes } = this;
    if (data.byteLength % blockBytes !== 0)
      throw new RangeError(`${data.byteLength} bytes are not whole blocks of ${blockBytes}`);
    const blocks = data.byteLength / blockBytes;
    if (!Number.isSafeInteger(lba) || lba < 0 || !Number.isSafeInteger(lba + blocks))
      throw new RangeError(`no such block: ${lba}`);
    const pieceBlocks = Math.floor(this.maxTransferBytes / blockBytes);
    const direction = write ? DataDirection.toDevice : DataDirection.fromDevice;
    let next = 0;
    let failure: unknown;
    const carry = async (): Promise<void> => {
      while (next < blocks && failure === undefined) {
        const first = next;
        const count = Math.min(pieceBlocks, blocks - first);
        next += count;
        const requiredBytes = count * blockBytes;
        try {
          await this.perform({
            name: `${write ? "WRITE" : "READ"} of ${count} blocks from ${lba + first} on`,
            command: { write, lba: lba + first, blocks: count },
            direction,
            data: data.subarray(first * blockBytes, first * blockBytes + requiredBytes),
            requiredBytes,
          });
        } catch (error) {
          failure ??= error;
        }
      }
    };
    const atOnce = Math.min(PIECES_IN_FLIGHT, Math.ceil(blocks / pieceBlocks));
    await Promise.all(Array.from({ length: atOnce }, carry));
    if (failure !== undefined) throw failure as Error;
  }

  /** Refuses commands to a disk that is gone, and notices when it goes. */
  async #guarded<T>(send: () => Promise<T>): Promise<T> {
    this.#throwIfGone();
    try {
      return await send();
    } catch (error) {
      if (error instanceof ScsiError && error.code === "ERR_SCSI_NOT_THERE") this.lost();
      throw error;
    }
  }

  /** Does what a unit attention asks for, before the command that met it is sent again. */
  async #act(additionalSense: AdditionalSense): Promise<void> {
    this.#throwIfGone();
    if (additionalSense >>> 8 === RESET_CODE) return;
    if (additionalSense === AdditionalSense.reportedLunsChanged) this.#events.lunsChanged();
    else if (additionalSense === AdditionalSense.capacityDataChanged)
      await this.#inTurn(() => this.#resize());
    else await this.lookAgain();
    // The command was meant for the disk that was here.
    this.#throwIfGone();
  }

  /** Looks when the looks before have ended: what an earlier one found must not replace what a later one did. */
  #inTurn(look: () => Promise<void>): Promise<void> {
    const turn = this.#looks.then(look);
    this.#looks = turn.catch(() => undefined);
    return turn;
  }

  async #resize(): Promise<void> {
    const capacity = await readCapacity(this.#quietUnit(), this.inquiry);
    if (capacity.blockBytes !== this.blockBytes) this.replaced();
    else this.#update({ ...this.#properties, capacity });
  }

  async #readAgain(): Promise<void> {
    const { target, lun } = this;
    const found = await scanUnit(this.#executor, target, lun, this.#version);
    if (found.unknown) return;
    if (found.inquiry === undefined) {
      this.lost();
      return;
    }
    const properties = await readDiskProperties(this.#quietUnit(), found.inquiry, this.#version);
    if (this.#isSame(found.inquiry, properties)) this.#update(properties);
    else this.replaced();
  }

  #isSame(inquiry: StandardInquiry, { identity, capacity }: DiskProperties): boolean {
    return (
      identity.name === this.identity.name &&
      inquiry.vendor === this.vendor &&
      inquiry.product === this.product &&
      capacity.blockBytes === this.blockBytes
    );
  }

  /** A unit for asking about the disk itself: whoever asks sees to the news that comes meanwhile. */
  #quietUnit(): LogicalUnit {
    return new LogicalUnit(this.#executor, this.target, this.lun);
  }

  #update(properties: DiskProperties): void {
    const before = JSON.stringify(this.inspect());
    const resized = this.blocks !== properties.capacity.blocks;
    this.#properties = properties;
    if (JSON.stringify(this.inspect()) !== before) this.#events.changed(this, resized);
  }

  #leave(reason: Error): void {
    if (this.#gone !== undefined) return;
    this.#gone = reason;
    this.#events.lost(this);
  }

  #throwIfGone(): void {
    if (this.#gone !== undefined) throw this.#gone;
  }

  #name(): string {
    return `the disk at ${this.target}:${this.lun}`;
  }
}
