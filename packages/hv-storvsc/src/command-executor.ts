import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import { BouncePool } from "./bounce-pool.js";
import { ScsiError, StorvscError } from "./errors.js";
import { MemoryRun } from "./memory-run.js";
import { Outcome, outcomeOf } from "./outcome.js";
import {
  DataDirection,
  parseFixedSense,
  SenseKey,
  type AdditionalSense,
  type Sense,
} from "./protocol/index.js";
import type { SlotOwner } from "./request-table.js";
import type { StorvscQueue } from "./storvsc-queue.js";

/** Which blocks a READ or WRITE moves. */
export interface BlockTransfer {
  readonly write: boolean;
  /** Below 2^53. */
  readonly lba: number;
  readonly blocks: number;
}

/** One SCSI command: a CDB, or a transfer of blocks whose CDB follows from the disk. */
export interface ScsiCommand {
  readonly target: number;
  readonly lun: number;
  /** 6 to 16 bytes. */
  readonly command: Uint8Array | BlockTransfer;
  /** One of `DataDirection`. */
  readonly direction: number;
  /**
   * Where the data comes from or goes to. A view of guest memory is shown to the host as it is, and must
   * stay untouched until the promise settles; anything else is copied. Absent or empty: no data.
   */
  readonly data?: Uint8Array | undefined;
  /** How long to wait for the completion; for ever unless told, because hosts may be slow without limit. */
  readonly timeoutMs?: number | undefined;
  /** Is told what a unit attention says that comes when the time was up: a disk says it once. */
  readonly lateAttention?: ((additionalSense: AdditionalSense) => void) | undefined;
}

/** How a command ended. */
export interface ScsiResult {
  readonly outcome: Outcome;
  /** Raw, flags included. */
  readonly srbStatus: number;
  readonly scsiStatus: number;
  readonly transferredBytes: number;
  /** Valid sense data in fixed format. */
  readonly sense: Sense | undefined;
}

interface Job {
  readonly command: ScsiCommand;
  readonly resolve: (result: ScsiResult) => void;
  readonly reject: (reason: Error) => void;
  timer: Timer | undefined;
  /** Set when the time was up: the promise is settled, the host still has the memory. */
  released: (() => void) | undefined;
}

/** A slot of the queue and what it needs to carry a job. */
interface Lane {
  readonly slot: number;
  readonly run: MemoryRun;
  /** GPA of the buffer of the present job; undefined when its data lies in guest memory. */
  buffer: number | undefined;
  job: Job | undefined;
}

/** Commands in flight at once. */
const LANES = 32;
/** Buffers for data outside guest memory. */
const BUFFERS = 8;

/**
 * SCSI commands as promises, for everything that is not the fast path. Commands beyond those that can be in
 * flight wait here. A command whose time is up is orphaned: its promise rejects, but its slot and buffer
 * stay out of use until the host's completion, however late.
 */
export class CommandExecutor implements SlotOwner {
  readonly queue: StorvscQueue;
  readonly #timers: Timers;
  readonly #pool: BouncePool;
  readonly #maxTransferBytes: number;
  readonly #lanes: (Lane | undefined)[] = [];
  readonly #idle: number[] = [];
  /** Lanes that exist and are not orphaned. */
  #live = 0;
  #waiting: Job[] = [];
  #orphans = 0;
  #refusing = false;
  /** Those who wait for time to pass before they send again. */
  readonly #sleepers = new Set<() => void>();

  /** Throws `ERR_STORVSC_MEMORY` when there is no room for a buffer. The queue is configured. */
  constructor(queue: StorvscQueue, timers: Timers) {
    this.queue = queue;
    this.#timers = timers;
    this.#maxTransferBytes = queue.parameters!.maxTransferBytes;
    this.#pool = new BouncePool(queue.allocator, this.#maxTransferBytes, BUFFERS);
    // One lane from the start: however many slots the fast path claims, commands go on.
    const first = this.#takeLane();
    if (first === undefined) throw new Error("the queue has no free slot");
    this.#idle.push(first);
  }

  /** Commands whose time was up and whose completion has not come. */
  get orphans(): number {
    return this.#orphans;
  }

  /**
   * Sends one command, without retries. Every completion resolves, whatever it says.
   *
   * Rejects with `ERR_SCSI_TIMEOUT`, or with `ERR_CLOSED` or `ERR_RESCINDED` when the channel closes first.
   */
  execute(command: ScsiCommand): Promise<ScsiResult> {
    const lengthBytes = command.data?.byteLength ?? 0;
    if (lengthBytes > this.#maxTransferBytes)
      throw new RangeError(`${lengthBytes} bytes are above the largest transfer`);
    if (lengthBytes > 0 !== (command.direction !== DataDirection.none))
      throw new RangeError("data and direction contradict each other");
    return new Promise((resolve, reject) => {
      if (this.#refusing || this.queue.closedReason !== undefined) {
        reject(this.#closedError());
        return;
      }
      const job: Job = { command, resolve, reject, timer: undefined, released: undefined };
      if (command.timeoutMs !== undefined)
        job.timer = this.#timers.after(command.timeoutMs, () => this.#timeUp(job));
      this.#waiting.push(job);
      this.#dispatch();
      this.queue.flush();
    });
  }

  /** Resolves after `delayMs`, or at once when commands are not taken any more: so nobody waits for nothing. */
  pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        timer.cancel();
        this.#sleepers.delete(wake);
        resolve();
      };
      const timer = this.#timers.after(delayMs, wake);
      this.#sleepers.add(wake);
    });
  }

  complete(tag: number, srbStatus: number, scsiStatus: number, transferred: number): void {
    const lane = this.#lanes[tag]!;
    const job = lane.job!;
    const { data, direction } = job.command;
    if (job.released === undefined) {
      if (lane.buffer !== undefined && direction === DataDirection.fromDevice)
        data!.set(this.queue.memory.bytes.subarray(lane.buffer, lane.buffer + transferred));
      if (lane.buffer !== undefined) this.#pool.give(lane.buffer);
      this.#reuse(tag, lane);
      job.timer?.cancel();
      job.resolve(this.#result(lane.slot, srbStatus, scsiStatus, transferred));
    } else {
      if (lane.buffer !== undefined) this.#pool.reclaim(lane.buffer);
      this.#orphans--;
      this.#lanes[tag] = undefined;
      const { outcome, sense } = this.#result(lane.slot, srbStatus, scsiStatus, transferred);
      this.queue.release(lane.slot);
      job.released();
      if (outcome === Outcome.unitAttention && sense !== undefined)
        job.command.lateAttention?.(sense.additionalSense);
    }
    this.#dispatch();
  }

  abandoned(tag: number, sent: boolean): void {
    const lane = this.#lanes[tag]!;
    const job = lane.job!;
    const orphaned = job.released !== undefined;
    if (lane.buffer !== undefined) {
      // An orphan's buffer was taken off the pool's books; one that the host never saw is free at once.
      const owner = orphaned ? undefined : this.#pool;
      if (sent) (owner ?? this.queue.allocator).leak(lane.buffer);
      else if (owner !== undefined) owner.give(lane.buffer);
      else this.queue.allocator.free(lane.buffer);
    }
    if (orphaned) this.#orphans--;
    this.#lanes[tag] = undefined;
    job.timer?.cancel();
    job.reject(this.#closedError());
    job.released?.();
  }

  /** Takes no more commands; those that it has go on. */
  refuse(): void {
    this.#refusing = true;
    for (const wake of this.#sleepers) wake();
  }

  /** To be called when the channel has closed: fails what waits, and gives the buffers back. */
  close(): void {
    this.refuse();
    for (const job of this.#waiting.splice(0)) {
      job.timer?.cancel();
      job.reject(this.#closedError());
    }
    this.#pool.close();
  }

  /** Sends those who wait, as far as slots and buffers go. */
  #dispatch(): void {
    // After a rescind the last completions come while the queue takes nothing more: `close` ends who waits.
    while (this.#waiting.length > 0 && this.queue.closedReason === undefined) {
      const job = this.#waiting[0]!;
      const address = this.#guestAddress(job.command.data);
      const needsBuffer = (job.command.data?.byteLength ?? 0) > 0 && address === undefined;
      const tag = this.#takeLane();
      if (tag === undefined) return;
      const lane = this.#lanes[tag]!;
      const buffer = needsBuffer ? this.#pool.take() : undefined;
      if (buffer !== undefined && buffer < 0) {
        this.#idle.push(tag);
        return;
      }
      this.#waiting.shift();
      lane.job = job;
      lane.buffer = buffer;
      this.#submit(lane, job.command, buffer ?? address);
    }
  }

  #submit(lane: Lane, scsi: ScsiCommand, address: number | undefined): void {
    const { target, lun, command, direction, data } = scsi;
    let run: MemoryRun | undefined;
    if (address !== undefined) {
      run = lane.run;
      run.set(address, data!.byteLength);
    }
    if (lane.buffer !== undefined && direction === DataDirection.toDevice)
      this.queue.memory.bytes.set(data!, lane.buffer);
    if (command instanceof Uint8Array)
      this.queue.submitCommand(lane.slot, target, lun, command, command.byteLength, direction, run);
    else
      this.queue.submitTransfer(
        lane.slot,
        target,
        lun,
        command.write,
        command.lba,
        command.blocks,
        run!,
      );
  }

  /** An idle lane, claimed from the queue if need be; undefined when all are at work. */
  #takeLane(): number | undefined {
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    if (this.#live === LANES) return undefined;
    let tag = this.#lanes.indexOf(undefined);
    if (tag < 0) tag = this.#lanes.length;
    const slot = this.queue.claim(this, tag);
    if (slot < 0) return undefined;
    this.#lanes[tag] = { slot, run: new MemoryRun(), buffer: undefined, job: undefined };
    this.#live++;
    return tag;
  }

  #reuse(tag: number, lane: Lane): void {
    lane.job = undefined;
    lane.buffer = undefined;
    this.#idle.push(tag);
  }

  #timeUp(job: Job): void {
    job.timer = undefined;
    const message = `no completion within ${String(job.command.timeoutMs)} ms`;
    const at = this.#waiting.indexOf(job);
    if (at >= 0) {
      this.#waiting.splice(at, 1);
      job.reject(new ScsiError("ERR_SCSI_TIMEOUT", message, { released: Promise.resolve() }));
      return;
    }
    const lane = this.#lanes.find((candidate) => candidate?.job === job)!;
    if (lane.buffer !== undefined) this.#pool.orphan();
    this.#live--;
    this.#orphans++;
    const released = new Promise<void>((resolve) => (job.released = resolve));
    job.reject(new ScsiError("ERR_SCSI_TIMEOUT", message, { released }));
    this.#dispatch();
    this.queue.flush();
  }

  #result(slot: number, srbStatus: number, scsiStatus: number, transferred: number): ScsiResult {
    const sense = parseFixedSense(this.queue.sense(slot));
    const outcome = outcomeOf(srbStatus, scsiStatus);
    return {
      outcome:
        outcome === Outcome.checkCondition && sense?.key === SenseKey.unitAttention
          ? Outcome.unitAttention
          : outcome,
      srbStatus,
      scsiStatus,
      transferredBytes: transferred,
      sense,
    };
  }

  /** GPA of data that lies in guest memory. */
  #guestAddress(data: Uint8Array | undefined): number | undefined {
    if (data === undefined || data.byteLength === 0) return undefined;
    const { buffer, byteOffset, sizeBytes } = this.queue.memory;
    if (data.buffer !== buffer) return undefined;
    const address = data.byteOffset - byteOffset;
    // An emulator's heap holds more than guest memory.
    return address >= 0 && address + data.byteLength <= sizeBytes ? address : undefined;
  }

  #closedError(): StorvscError {
    return this.queue.closedReason === "rescinded"
      ? new StorvscError("ERR_RESCINDED", "the host took the controller away")
      : new StorvscError("ERR_CLOSED", "the controller's channel is closed");
  }
}
