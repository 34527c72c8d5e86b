import { DiskOperation, Outcome, type DiskQueue, type ScsiDisk } from "@hyperv-is/hv-storvsc";
import type { Prng } from "@hyperv-is/conformance";
import type { BlockModel, Change, Look } from "./block-model.js";
import type { OperationLedger } from "./operation-ledger.js";
import { ScatterBuffer } from "./scatter-buffer.js";
import type { DiskPair, StorageMachine } from "./storage-machine.js";

/** How disks are driven by slots. */
export interface FastPathPlan {
  /** Requests at a time. */
  readonly fastDepth: number;
  /** Blocks of most of them, at most. */
  readonly fastBlocks: number;
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

/** Slots of a channel that are left to the promises. */
const SLOTS_LEFT = 4;

/** Drives one disk by slots: any number of requests at a time, in scatter lists of every shape. */
export class FastPath {
  readonly #machine: StorageMachine;
  readonly #prng: Prng;
  readonly #ledger: OperationLedger;
  readonly #plan: FastPathPlan;
  readonly #pair: DiskPair;
  readonly #model: BlockModel;
  readonly #disk: ScsiDisk;
  readonly #isStopping: () => boolean;

  constructor(
    machine: StorageMachine,
    prng: Prng,
    ledger: OperationLedger,
    plan: FastPathPlan,
    pair: DiskPair,
    model: BlockModel,
    disk: ScsiDisk,
    isStopping: () => boolean,
  ) {
    this.#machine = machine;
    this.#prng = prng;
    this.#ledger = ledger;
    this.#plan = plan;
    this.#pair = pair;
    this.#model = model;
    this.#disk = disk;
    this.#isStopping = isStopping;
  }

  /** Submits so many requests, as long as the disk is there; resolves with how many are left. */
  run(requests: number): Promise<number> {
    const disk = this.#disk;
    const depth = Math.min(this.#plan.fastDepth, disk.queueDepthMax - SLOTS_LEFT);
    if (depth < 1)
      return new Promise((resolve) => void this.#machine.timers.after(1, () => resolve(requests)));
    const slots: (Request | undefined)[] = Array.from({ length: depth }, () => undefined);
    let left = requests;
    let over = false;
    return new Promise((resolve) => {
      const submitOne = (slot: number): boolean => {
        const request = this.#request();
        slots[slot] = request.request;
        const { lba, blocks } = request.extent;
        const { operation, buffer } = request.request;
        this.#ledger.begun++;
        if (queue.submit(operation, this.#pair.plan.origin + lba, blocks, buffer, slot)) {
          left--;
          return true;
        }
        this.#ledger.ended++;
        slots[slot] = undefined;
        this.#settle(request.request, Outcome.retry, 0);
        return false;
      };
      const fill = (most: number): void => {
        for (let slot = 0; slot < depth && most > 0 && left > 0 && !this.#isStopping(); slot++)
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
          this.#ledger.ended++;
          if (outcome === Outcome.ok) this.#ledger.succeeded++;
          else this.#fail(request, outcome);
          this.#ledger.judge(() => this.#settle(request, outcome, transferred));
          // The next request from inside the completion, several from outside, or none until all are through.
          if (left > 0 && !this.#isStopping() && this.#prng.chance(2, 3)) submitOne(slot);
          if (queue.inFlight === 0 || this.#prng.chance(1, 8))
            void Promise.resolve().then(() => {
              if (queue.inFlight === 0 && !over) fill(depth);
            });
        },
      });
      fill(1 + this.#prng.below(depth));
    });
  }

  #fail({ operation }: Request, outcome: Outcome): void {
    const isWrite = operation === DiskOperation.write || operation === DiskOperation.unmap;
    if (this.#pair.plan.readOnly && isWrite && outcome === Outcome.checkCondition) return;
    const name = Object.entries(Outcome).find(([, value]) => value === outcome)?.[0];
    const what = Object.entries(DiskOperation).find(([, value]) => value === operation)?.[0];
    this.#ledger.failures.push({ what: `fast ${what}`, code: `outcome ${name}` });
  }

  #request(): { readonly request: Request; readonly extent: Extent } {
    const prng = this.#prng;
    const model = this.#model;
    const { memory, programs } = this.#machine;
    const most = Math.floor(this.#disk.maxTransferBytes / model.blockBytes);
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
      const changes = this.#pair.plan.readOnly ? [] : model.unmap(extent.lba, blocks);
      return { request: { ...none, operation, changes }, extent };
    }
    const buffer = ScatterBuffer.make(memory, programs, prng, blocks * model.blockBytes);
    if (buffer === undefined)
      return { request: { ...none, operation: DiskOperation.flush }, extent };
    if (operation === DiskOperation.read) {
      const look = model.read(extent.lba, blocks);
      return { request: { ...none, operation, buffer, look }, extent };
    }
    if (this.#pair.plan.readOnly) return { request: { ...none, operation, buffer }, extent };
    const change = model.write(extent.lba, blocks);
    const contents = model.contents(change);
    buffer.put(contents);
    return { request: { ...none, operation, buffer, changes: [change], contents }, extent };
  }

  /** Ends a request in the model, and looks at what it left in memory. */
  #settle(request: Request, outcome: Outcome, transferred: number): void {
    const { buffer, look, changes, contents } = request;
    const model = this.#model;
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
