import {
  DiskOperation,
  Outcome,
  ScsiError,
  StorvscError,
  type DiskQueue,
  type ScsiDisk,
} from "@hyperv-is/hv-storvsc";
import { DataDirection } from "@hyperv-is/hv-storvsc/protocol";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { Prng } from "@hyperv-is/conformance";
import { BlockModel, type Change, type Look } from "./block-model.js";
import { ScatterBuffer } from "./scatter-buffer.js";
import type { DiskPair, StorageMachine } from "./storage-machine.js";

/** What a workload does. */
export interface WorkloadPlan {
  /** Programs that use the promises, side by side. */
  readonly tasks: number;
  /** Operations of each. */
  readonly operations: number;
  /** Requests to each disk on the fast path, and how many at a time. */
  readonly fastRequests: number;
  readonly fastDepth: number;
  /** Blocks of most of them, at most. */
  readonly fastBlocks: number;
  /** How often the host changes the size of a disk, at most. */
  readonly resizes: number;
}

/** An operation that failed: what for, and how. */
export interface Failure {
  readonly what: string;
  readonly code: string;
}

interface Extent {
  readonly lba: number;
  readonly blocks: number;
}

/** A request on the fast path. */
interface Request {
  readonly operation: DiskOperation;
  readonly buffer: ScatterBuffer | undefined;
  readonly look: Look | undefined;
  readonly changes: readonly Change[];
  readonly contents: Uint8Array | undefined;
}

/** How much a disk may grow. */
const GROWTH_BLOCKS = 64;

/** Blocks that one program's operation can span: a few, or more than fit into a transfer. */
const SMALL_BLOCKS = 9;

/**
 * Programs that use the machine's disks in every way there is, and check each result against a model.
 * An error in what they see is a failure of the schedule; a failed operation is a fact for its plan to explain.
 */
export class StorageWorkload {
  readonly failures: Failure[] = [];
  /** Operations that began, and those that ended one way or the other. */
  begun = 0;
  ended = 0;
  succeeded = 0;
  /** Operations that were given up and whose memory the host has not let go of. */
  orphans = 0;
  readonly #machine: StorageMachine;
  readonly #prng: Prng;
  readonly #plan: WorkloadPlan;
  readonly #models = new Map<DiskPair, BlockModel>();
  #resizes: number;
  #stopping = false;
  #error: unknown;

  constructor(machine: StorageMachine, prng: Prng, plan: WorkloadPlan) {
    this.#machine = machine;
    this.#prng = prng;
    this.#plan = plan;
    this.#resizes = plan.resizes;
    for (const disk of machine.disks)
      this.#models.set(disk, new BlockModel(disk.plan.blockBytes, disk.plan.blocks));
  }

  /** Operations under way. */
  get pending(): number {
    return this.begun - this.ended;
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
    this.throwIfWrong();
  }

  throwIfWrong(): void {
    if (this.#error !== undefined) throw this.#error as Error;
  }

  /** Reads every disk through the guest and compares it with the model. */
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
      if (done && disk.sizeBytes !== pair.backend.sizeBytes)
        throw new Error(`a disk of ${pair.backend.sizeBytes} bytes has ${disk.sizeBytes}`);
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
      const disk = this.#machine.find(pair);
      if (disk === undefined) {
        await this.#sleep(1 + this.#prng.below(20));
        continue;
      }
      await this.#operate(pair, disk);
      if (this.#prng.chance(1, 4)) await this.#sleep(this.#prng.below(3));
    }
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
    this.begun++;
    try {
      await operation();
      this.succeeded++;
      return true;
    } catch (error) {
      if (!(error instanceof ScsiError || error instanceof StorvscError)) {
        this.#error ??= error;
        return false;
      }
      if (error.code !== expected) this.failures.push({ what, code: error.code });
      return false;
    } finally {
      this.ended++;
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
    if (done) this.#judge(() => model.check(look, array.data));
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
    if (done && look !== undefined) this.#judge(() => model.check(look, data));
    else if (look !== undefined) model.abandon(look);
    if (released !== undefined) {
      this.orphans++;
      void released.then(() => {
        this.orphans--;
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
    const changes = extents.flatMap((extent) => this.#clear(pair, extent));
    const ranges = extents.map(({ lba, blocks }) => ({ lba: pair.plan.origin + lba, blocks }));
    const done = await this.#try("unmap", () => disk.unmap(ranges));
    for (const change of changes) this.#models.get(pair)!.end(change, done);
  }

  async #outOfRange(pair: DiskPair, disk: ScsiDisk): Promise<void> {
    const { origin, blocks, blockBytes } = pair.plan;
    const lba = origin + blocks + GROWTH_BLOCKS + 1 - this.#prng.below(2);
    await this.#refused("read", () => disk.read(lba, this.#bytes(2 * blockBytes)));
  }

  /** An operation that must fail: whatever the reason, success is wrong. */
  async #refused(what: string, operation: () => Promise<void>): Promise<void> {
    if (await this.#try(what, operation, "ERR_SCSI_CHECK_CONDITION"))
      this.#error ??= new Error(`a ${what} that the disk must refuse succeeded`);
  }

  /** Changes that an UNMAP makes: the disk lets go of whole pages only. */
  #clear(pair: DiskPair, { lba, blocks }: Extent): Change[] {
    const perPage = PAGE_SIZE / pair.plan.blockBytes;
    const first = Math.ceil(lba / perPage) * perPage;
    const end = Math.floor((lba + blocks) / perPage) * perPage;
    return end > first ? [this.#models.get(pair)!.clear(first, end - first)] : [];
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

  #judge(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.#error ??= error;
    }
  }

  /** Drives one disk by slots, again after each loss of its controller, until the plan's requests are through. */
  async #fastProgram(pair: DiskPair): Promise<void> {
    let left = this.#plan.fastRequests;
    for (let patience = 20; left > 0 && patience > 0 && !this.#stopping; patience--) {
      const disk = this.#machine.find(pair);
      if (disk === undefined) await this.#sleep(1 + this.#prng.below(20));
      else left = await this.#fastRound(pair, disk, left);
    }
  }

  /** Resolves with the requests that are left. */
  #fastRound(pair: DiskPair, disk: ScsiDisk, requests: number): Promise<number> {
    const model = this.#models.get(pair)!;
    const depth = Math.min(this.#plan.fastDepth, disk.queueDepthMax - 4);
    if (depth < 1) return this.#sleep(1).then(() => requests);
    const slots: (Request | undefined)[] = Array.from({ length: depth }, () => undefined);
    let left = requests;
    let over = false;
    return new Promise((resolve) => {
      const submitOne = (slot: number): boolean => {
        const request = this.#request(pair, disk);
        slots[slot] = request.request;
        const { lba, blocks } = request.extent;
        const { operation, buffer } = request.request;
        this.begun++;
        if (queue.submit(operation, pair.plan.origin + lba, blocks, buffer, slot)) {
          left--;
          return true;
        }
        this.ended++;
        slots[slot] = undefined;
        this.#settle(model, request.request, Outcome.retry, 0);
        return false;
      };
      const fill = (most: number): void => {
        for (let slot = 0; slot < depth && most > 0 && left > 0 && !this.#stopping; slot++)
          if (slots[slot] === undefined) {
            if (!submitOne(slot)) break;
            most--;
          }
        queue.flush();
        if (queue.inFlight > 0 || over) return;
        over = true;
        queue.close();
        resolve(left);
      };
      const queue: DiskQueue = disk.openQueue(depth, {
        complete: (slot, outcome, transferred) => {
          const request = slots[slot]!;
          slots[slot] = undefined;
          this.ended++;
          if (outcome === Outcome.ok) this.succeeded++;
          else this.#fail(pair, request, outcome);
          this.#judge(() => this.#settle(model, request, outcome, transferred));
          // The next request from inside the completion, several from outside, or none until all are through.
          if (left > 0 && !this.#stopping && this.#prng.chance(2, 3)) submitOne(slot);
          if (queue.inFlight === 0 || this.#prng.chance(1, 8))
            void Promise.resolve().then(() => {
              if (queue.inFlight === 0 && !over) fill(depth);
            });
        },
      });
      fill(1 + this.#prng.below(depth));
    });
  }

  #fail(pair: DiskPair, { operation }: Request, outcome: Outcome): void {
    const isWrite = operation === DiskOperation.write || operation === DiskOperation.unmap;
    if (pair.plan.readOnly && isWrite && outcome === Outcome.checkCondition) return;
    const name = Object.entries(Outcome).find(([, value]) => value === outcome)?.[0];
    const what = Object.entries(DiskOperation).find(([, value]) => value === operation)?.[0];
    this.failures.push({ what: `fast ${what}`, code: `outcome ${name}` });
  }

  #request(pair: DiskPair, disk: ScsiDisk): { readonly request: Request; readonly extent: Extent } {
    const prng = this.#prng;
    const model = this.#models.get(pair)!;
    const { memory, programs } = this.#machine;
    const most = Math.floor(disk.maxTransferBytes / model.blockBytes);
    const blocks = Math.min(
      1 + prng.below(prng.chance(1, 4) ? most : Math.min(most, this.#plan.fastBlocks)),
      model.blocks,
    );
    const extent = { lba: prng.below(model.blocks - blocks + 1), blocks };
    const kinds = [0, 0, 0, 1, 1, 1, 1, 2, 3] as const;
    const operation: DiskOperation = prng.pick(kinds);
    const none = { buffer: undefined, look: undefined, changes: [], contents: undefined };
    if (operation === DiskOperation.flush) return { request: { ...none, operation }, extent };
    if (operation === DiskOperation.unmap) {
      const changes = pair.plan.readOnly ? [] : this.#clear(pair, extent);
      return { request: { ...none, operation, changes }, extent };
    }
    const buffer = ScatterBuffer.make(memory, programs, prng, blocks * model.blockBytes);
    if (buffer === undefined)
      return { request: { ...none, operation: DiskOperation.flush }, extent };
    if (operation === DiskOperation.read) {
      const look = model.read(extent.lba, blocks);
      return { request: { ...none, operation, buffer, look }, extent };
    }
    if (pair.plan.readOnly) return { request: { ...none, operation, buffer }, extent };
    const change = model.write(extent.lba, blocks);
    const contents = model.contents(change);
    buffer.put(contents);
    return { request: { ...none, operation, buffer, changes: [change], contents }, extent };
  }

  /** Ends a request in the model, and looks at what it left in memory. */
  #settle(model: BlockModel, request: Request, outcome: Outcome, transferred: number): void {
    const { buffer, look, changes, contents } = request;
    const done = outcome === Outcome.ok;
    for (const change of changes) model.end(change, done);
    if (buffer !== undefined) {
      const isOver = outcome !== Outcome.closed;
      const data = isOver ? buffer.take() : new Uint8Array(0);
      buffer.free(this.#machine.programs, isOver);
      if (!isOver) {
        if (look !== undefined) model.abandon(look);
        return;
      }
      if (contents !== undefined && Buffer.compare(contents, data) !== 0)
        throw new Error("a write changed its own data");
      if (look !== undefined && (done || transferred > 0))
        model.check(look, data.subarray(0, transferred));
      else if (look !== undefined) model.abandon(look);
    }
  }
}
