import { ScsiError, StorvscError, type ScsiDisk } from "@hyperv-is/hv-storvsc";
import { DataDirection } from "@hyperv-is/hv-storvsc/protocol";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { Prng } from "@hyperv-is/conformance";
import { BlockModel } from "./block-model.js";
import { OperationLedger } from "./operation-ledger.js";
import { FastPath, type FastPathPlan } from "./storage-fast-path.js";
import type { DiskPair, StorageMachine } from "./storage-machine.js";

/** What a workload does. */
export interface WorkloadPlan extends FastPathPlan {
  /** Programs that use the promises, side by side. */
  readonly tasks: number;
  /** Operations of each. */
  readonly operations: number;
  /** Requests to each disk on the fast path. */
  readonly fastRequests: number;
  /** How often the host changes the size of a disk, at most. */
  readonly resizes: number;
}

interface Extent {
  readonly lba: number;
  readonly blocks: number;
}

/** How much a disk may grow. */
const GROWTH_BLOCKS = 64;

/** Longer than every delay of a fault plan. */
const SETTLING_MS = 500;

/** Blocks that one program's operation can span: a few, or more than fit into a transfer. */
const SMALL_BLOCKS = 9;

/**
 * Programs that use the machine's disks in every way there is, and check each result against a model.
 * An error in what they see is a failure of the schedule; a failed operation is a fact for its plan to explain.
 */
export class StorageWorkload {
  readonly ledger = new OperationLedger();
  readonly #machine: StorageMachine;
  readonly #prng: Prng;
  readonly #plan: WorkloadPlan;
  readonly #models = new Map<DiskPair, BlockModel>();
  #resizes: number;
  #stopping = false;

  constructor(machine: StorageMachine, prng: Prng, plan: WorkloadPlan) {
    this.#machine = machine;
    this.#prng = prng;
    this.#plan = plan;
    this.#resizes = plan.resizes;
    for (const disk of machine.disks)
      this.#models.set(disk, new BlockModel(disk.plan.blockBytes, disk.plan.blocks));
  }

  /** Begins nothing new. */
  stop(): void {
    this.#stopping = true;
  }

  /** Runs all programs to their end; rejects with the first thing that was wrong. */
  async run(): Promise<void> {
    const { tasks, fastRequests } = this.#plan;
    const programs = Array.from({ length: tasks }, () => this.#program());
    if (fastRequests > 0)
      for (const pair of this.#machine.disks) programs.push(this.#fastProgram(pair));
    await Promise.all(programs);
    this.ledger.throwIfWrong();
  }

  /** Reads every disk through the guest and compares it with the model; then its size with the host's. */
  async verify(): Promise<void> {
    for (const pair of this.#machine.disks) {
      const disk = this.#machine.find(pair);
      if (disk === undefined) continue;
      const model = this.#models.get(pair)!;
      const look = model.read(0, model.blocks);
      const data = new Uint8Array(model.blocks * model.blockBytes);
      // A fault may be left for it.
      const done = await this.#try("read of all", () => disk.read(pair.plan.origin, data));
      if (done) model.check(look, data);
      else model.abandon(look);
      if (!done) return;
    }
    // A disk that was told of its size in passing looks at itself beside all else.
    await this.#sleep(SETTLING_MS);
    for (const pair of this.#machine.disks) {
      for (const { sizeBytes } of this.#machine.faces(pair))
        if (sizeBytes !== pair.backend.sizeBytes)
          throw new Error(`a disk of ${pair.backend.sizeBytes} bytes has ${sizeBytes}`);
    }
  }

  /** Compares what the host has on its disks with the model, when no operation is under way. */
  verifyBackends(): void {
    for (const [{ backend, plan }, model] of this.#models) {
      const data = new Uint8Array(model.blocks * model.blockBytes);
      backend.read(plan.origin * model.blockBytes, data, 0, data.byteLength);
      model.check(model.read(0, model.blocks), data);
    }
  }

  async #program(): Promise<void> {
    for (let left = this.#plan.operations; left > 0 && !this.#stopping; left--) {
      const pair = this.#prng.pick(this.#machine.disks);
      const disk = this.#face(pair);
      if (disk === undefined) {
        await this.#sleep(1 + this.#prng.below(20));
        continue;
      }
      await this.#operate(pair, disk);
      if (this.#prng.chance(1, 4)) await this.#sleep(this.#prng.below(3));
    }
  }

  /** An end of the disk: on any CPU that has one. */
  #face(pair: DiskPair): ScsiDisk | undefined {
    const faces = this.#machine.faces(pair);
    return faces.length <= 1 ? faces[0] : this.#prng.pick(faces);
  }

  #sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.#machine.timers.after(delayMs, resolve));
  }

  #operate(pair: DiskPair, disk: ScsiDisk): Promise<void> {
    switch (this.#prng.below(18)) {
      case 0:
        return this.#attempt("flush", () => disk.flush());
      case 1:
        return this.#attempt("test-ready", () => disk.testReady());
      case 2:
      case 3:
        return this.#unmap(pair, disk);
      case 4:
        return this.#outOfRange(pair, disk);
      case 5:
        return this.#writeAndRead(pair, disk);
      case 16:
        return this.#timed(pair, disk);
      case 17:
        this.#resize(pair);
        return Promise.resolve();
      case 6:
      case 7:
      case 8:
      case 9:
      case 10:
        return this.#write(pair, disk, this.#extent(pair));
      default:
        return this.#read(pair, disk, this.#extent(pair));
    }
  }

  /**
   * Counts an operation, and keeps how it failed, unless that is what was expected. Resolves with whether
   * it succeeded.
   */
  async #try(what: string, operation: () => Promise<unknown>, expected?: string): Promise<boolean> {
    this.ledger.begun++;
    try {
      await operation();
      this.ledger.succeeded++;
      return true;
    } catch (error) {
      if (!(error instanceof ScsiError || error instanceof StorvscError)) {
        this.ledger.wrong(error);
        return false;
      }
      if (error.code !== expected) this.ledger.failures.push({ what, code: error.code });
      return false;
    } finally {
      this.ledger.ended++;
    }
  }

  async #attempt(what: string, operation: () => Promise<unknown>): Promise<void> {
    await this.#try(what, operation);
  }

  async #read(pair: DiskPair, disk: ScsiDisk, { lba, blocks }: Extent): Promise<void> {
    const model = this.#models.get(pair)!;
    const look = model.read(lba, blocks);
    const array = this.#array(blocks * model.blockBytes);
    const done = await this.#try("read", () => disk.read(pair.plan.origin + lba, array.data));
    if (done) this.ledger.judge(() => model.check(look, array.data));
    else model.abandon(look);
    array.free(done);
  }

  async #write(pair: DiskPair, disk: ScsiDisk, { lba, blocks }: Extent): Promise<void> {
    const model = this.#models.get(pair)!;
    if (pair.plan.readOnly) {
      const data = this.#bytes(blocks * model.blockBytes);
      await this.#refused("write", () => disk.write(pair.plan.origin + lba, data));
      return;
    }
    const change = model.write(lba, blocks);
    const array = this.#array(blocks * model.blockBytes);
    array.data.set(model.contents(change));
    const done = await this.#try("write", () => disk.write(pair.plan.origin + lba, array.data));
    model.end(change, done);
    array.free(done);
  }

  /** What was written is read back at once. */
  async #writeAndRead(pair: DiskPair, disk: ScsiDisk): Promise<void> {
    const extent = this.#extent(pair);
    await this.#write(pair, disk, extent);
    await this.#read(pair, disk, extent);
  }

  /** A transfer that is given up after a while, whether the host has it or not. */
  async #timed(pair: DiskPair, disk: ScsiDisk): Promise<void> {
    const { origin, blockBytes, readOnly } = pair.plan;
    const model = this.#models.get(pair)!;
    const most = Math.floor(disk.maxTransferBytes / blockBytes);
    const blocks = 1 + this.#prng.below(Math.min(most, SMALL_BLOCKS));
    const lba = this.#prng.below(model.blocks - blocks + 1);
    const write = !readOnly && this.#prng.chance(1, 2);
    const change = write ? model.write(lba, blocks) : undefined;
    const look = write ? undefined : model.read(lba, blocks);
    const array = this.#array(blocks * blockBytes);
    const { data } = array;
    if (change !== undefined) data.set(model.contents(change));
    let released: Promise<void> | undefined;
    const done = await this.#try(write ? "timed write" : "timed read", async () => {
      try {
        await disk.perform({
          name: "timed transfer",
          command: { write, lba: origin + lba, blocks },
          direction: write ? DataDirection.toDevice : DataDirection.fromDevice,
          data,
          requiredBytes: data.byteLength,
          timeoutMs: this.#prng.below(64) / 8,
        });
      } catch (error) {
        if (error instanceof ScsiError) released = error.released;
        throw error;
      }
    });
    if (done && look !== undefined) this.ledger.judge(() => model.check(look, data));
    else if (look !== undefined) model.abandon(look);
    if (released !== undefined) {
      this.ledger.orphans++;
      void released.then(() => {
        this.ledger.orphans--;
        if (change !== undefined) model.end(change, false);
        array.free(false);
      });
      return;
    }
    if (change !== undefined) model.end(change, done);
    array.free(done);
  }

  /** The host makes a disk larger, or as small as it was. */
  #resize({ backend, plan }: DiskPair): void {
    if (this.#resizes === 0) return;
    this.#resizes--;
    const blocks = plan.origin + plan.blocks + this.#prng.below(GROWTH_BLOCKS + 1);
    backend.resize(blocks * plan.blockBytes);
  }

  async #unmap(pair: DiskPair, disk: ScsiDisk): Promise<void> {
    if (pair.plan.readOnly || disk.unmapLimits === undefined) return;
    const extents = Array.from({ length: 1 + this.#prng.below(3) }, () => this.#extent(pair));
    const model = this.#models.get(pair)!;
    const changes = extents.flatMap(({ lba, blocks }) => model.unmap(lba, blocks));
    const ranges = extents.map(({ lba, blocks }) => ({ lba: pair.plan.origin + lba, blocks }));
    const done = await this.#try("unmap", () => disk.unmap(ranges));
    for (const change of changes) model.end(change, done);
  }

  async #outOfRange(pair: DiskPair, disk: ScsiDisk): Promise<void> {
    const { origin, blocks, blockBytes } = pair.plan;
    const lba = origin + blocks + GROWTH_BLOCKS + 1 - this.#prng.below(2);
    await this.#refused("read", () => disk.read(lba, this.#bytes(2 * blockBytes)));
  }

  /** An operation that must fail: whatever the reason, success is wrong. */
  async #refused(what: string, operation: () => Promise<void>): Promise<void> {
    if (await this.#try(what, operation, "ERR_SCSI_CHECK_CONDITION"))
      this.ledger.wrong(new Error(`a ${what} that the disk must refuse succeeded`));
  }

  #extent({ plan, instanceId }: DiskPair): Extent {
    const most = this.#maxBlocks(instanceId, plan.blockBytes);
    const wanted = this.#prng.chance(1, 5)
      ? 1 + this.#prng.below(most * 2 + 2)
      : 1 + this.#prng.below(Math.min(SMALL_BLOCKS, most + 1));
    const blocks = Math.min(wanted, plan.blocks);
    return { lba: this.#prng.below(plan.blocks - blocks + 1), blocks };
  }

  /** Blocks of the largest transfer, as far as they are known. */
  #maxBlocks(instanceId: string, blockBytes: number): number {
    const pair = this.#machine.disks.find((disk) => disk.instanceId === instanceId)!;
    const disk = this.#machine.find(pair);
    return Math.max(1, Math.floor((disk?.maxTransferBytes ?? PAGE_SIZE) / blockBytes));
  }

  #bytes(length: number): Uint8Array {
    return new Uint8Array(length);
  }

  /** An array of the program, or a piece of guest memory at any word. */
  #array(lengthBytes: number): { readonly data: Uint8Array; free(safe: boolean): void } {
    const { memory, programs } = this.#machine;
    const pages = Math.ceil(lengthBytes / PAGE_SIZE) + 1;
    const address = this.#prng.chance(1, 2) ? programs.allocate(pages) : undefined;
    if (address === undefined) return { data: this.#bytes(lengthBytes), free: () => undefined };
    const start = address + this.#prng.below(PAGE_SIZE);
    return {
      data: memory.bytes.subarray(start, start + lengthBytes),
      // The host may go on with an operation whose channel closed under it.
      free: (safe) => (safe ? programs.free(address) : programs.leak(address)),
    };
  }

  /** Drives one disk by slots, again after each loss of its controller, until the plan's requests are through. */
  async #fastProgram(pair: DiskPair): Promise<void> {
    let left = this.#plan.fastRequests;
    for (let patience = 20; left > 0 && patience > 0 && !this.#stopping; patience--) {
      const disk = this.#face(pair);
      if (disk === undefined) await this.#sleep(1 + this.#prng.below(20));
      else
        left = await new FastPath(
          this.#machine,
          this.#prng,
          this.ledger,
          this.#plan,
          pair,
          this.#models.get(pair)!,
          disk,
          () => this.#stopping,
        ).run(left);
    }
  }
}
