import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

/** A machine of which others use no more than this counts as idle. */
const IDLE_SHARE = 0.06;
const WINDOW_MS = 400;
/** How long one wait may last. */
const WAIT_LIMIT_MS = 5_000;

/** The clock ticks that the machine's processors have worked, and those of them that were ours. */
export interface Ticks {
  readonly busy: number;
  readonly total: number;
  readonly own: number;
}

/**
 * What other processes do with the machine, from Linux's counters of processor time.
 *
 * Two threads that spin on two processors leave no room: a third busy process can make a number collapse.
 * Elsewhere than on Linux the machine always counts as idle.
 */
export class ProcessorTime {
  readonly #children: number[] = [];
  readonly #read: (children: readonly number[]) => Ticks | undefined;
  readonly #sleep: (ms: number) => Promise<unknown>;
  #patienceMs: number;

  /**
   * @param patienceMs - How long all waits together may last.
   * @param read - Other counters than the machine's, and
   * @param sleep - another clock, are for tests.
   */
  constructor(
    patienceMs: number,
    read: (children: readonly number[]) => Ticks | undefined = readTicks,
    sleep: (ms: number) => Promise<unknown> = delay,
  ) {
    this.#patienceMs = patienceMs;
    this.#read = read;
    this.#sleep = sleep;
  }

  /** False where the counters cannot be read. */
  get isKnown(): boolean {
    return this.#read(this.#children) !== undefined;
  }

  /** Counts a child process as ours while it runs: the system adds its time to our own only when it has ended. */
  include(pid: number): void {
    this.#children.push(pid);
  }

  /** Waits until others have left the machine idle for 0.4 s. @returns False if it gave up. */
  async untilIdle(): Promise<boolean> {
    for (let waitedMs = 0; ; waitedMs += WINDOW_MS) {
      if (waitedMs >= WAIT_LIMIT_MS || this.#patienceMs <= 0) return false;
      const others = this.watch();
      await this.#sleep(WINDOW_MS);
      if (others() <= IDLE_SHARE) return true;
      this.#patienceMs -= WINDOW_MS;
    }
  }

  /** Starts to watch; the result says which share of all processor time others have used since. */
  watch(): () => number {
    const before = this.#read(this.#children);
    return () => {
      const after = this.#read(this.#children);
      if (before === undefined || after === undefined) return 0;
      const others = after.busy - before.busy - (after.own - before.own);
      return Math.max(0, others) / Math.max(1, after.total - before.total);
    };
  }

  /** True for a share that makes a measurement noisy. */
  static isNoisy(share: number): boolean {
    return share > IDLE_SHARE;
  }
}

/** The counters of this machine, and of this process and its children; undefined elsewhere than on Linux. */
export function readTicks(children: readonly number[]): Ticks | undefined {
  let machine: string;
  let own: number;
  try {
    machine = readFileSync("/proc/stat", "latin1");
    own = processTicks("self");
  } catch {
    return undefined;
  }
  // user nice system idle iowait irq softirq steal; guest time is part of user time.
  const [user, nice, system, idle, iowait, irq, softirq, steal] = fields(machine.slice(5), 8);
  const busy = user! + nice! + system! + irq! + softirq! + steal!;
  for (const pid of children) own += runningTicks(pid);
  return { busy, total: busy + idle! + iowait!, own };
}

/** Ticks of a process and of those of its children that have ended. Throws if there is no such process. */
function processTicks(process: string): number {
  const text = readFileSync(`/proc/${process}/stat`, "latin1");
  // Behind the name, which may hold anything: utime, stime, cutime and cstime are fields 14 to 17.
  const times = fields(text.slice(text.lastIndexOf(")") + 2), 15).slice(11);
  return times.reduce((sum, ticks) => sum + ticks, 0);
}

/** As `processTicks`; none for a process that has ended. */
function runningTicks(pid: number): number {
  try {
    return processTicks(String(pid));
  } catch {
    return 0;
  }
}

function fields(text: string, count: number): number[] {
  return text.trim().split(/\s+/, count).map(Number);
}
