import { basename, extname, resolve } from "node:path";
import type { Timers } from "@hyperv-is/vmbus-core";
import { BootError } from "../boot-error.js";
import type { CpuSet } from "./cpu-set.js";

/** A kernel thread to be loaded. */
export interface StartKthread {
  /** File of the module. */
  readonly file: string;
  /** 0 unless told. */
  readonly cpu?: number | undefined;
  /** The file's name unless told. */
  readonly name?: string | undefined;
}

/** A kernel thread. */
export interface RunningKthread {
  readonly id: number;
  readonly name: string;
  readonly cpu: number;
}

interface Entry extends RunningKthread {
  /** From `run` on: settles as the thread ends, with what it returns or throws. */
  ended: Promise<unknown> | undefined;
}

/** How long a thread may take to end when it is told to. */
const STOP_TIMEOUT_MS = 5_000;

/** The kernel threads of all CPUs, as the boot processor knows them. What goes wrong with one is in dmesg. */
export class Kthreads {
  readonly #cpus: CpuSet;
  readonly #timers: Timers;
  readonly #print: (line: string) => void;
  readonly #threads = new Map<number, Entry>();
  #nextId = 1;

  constructor(cpus: CpuSet, timers: Timers, print: (line: string) => void) {
    this.#cpus = cpus;
    this.#timers = timers;
    this.#print = print;
  }

  /** The threads that there are, in the order of their start. */
  list(): readonly RunningKthread[] {
    return Array.from(this.#threads.values(), ({ id, name, cpu }) => ({ id, name, cpu }));
  }

  /** Loads the module of a thread on its CPU; `run` follows. Rejects with `ERR_KTHREAD` if it cannot. */
  async load({ file, cpu = 0, name }: StartKthread): Promise<RunningKthread> {
    const id = this.#nextId++;
    const path = resolve(file);
    const shownAs = name ?? basename(path, extname(path));
    if (!this.#cpus.online.includes(cpu))
      throw new BootError("ERR_KTHREAD", `${shownAs}: there is no CPU ${cpu}`);
    try {
      await this.#cpus.kthreads(cpu).loadKthread({ id, name: shownAs, file: path });
    } catch (cause) {
      const message = `${shownAs}: ${(cause as Error).message}`;
      throw new BootError("ERR_KTHREAD", message, { cause });
    }
    this.#threads.set(id, { id, name: shownAs, cpu, ended: undefined });
    return { id, name: shownAs, cpu };
  }

  /** Runs a thread that was loaded, once. Resolves with what it returns, and rejects with what it throws, or when its CPU is gone. */
  async run(id: number, args: unknown): Promise<unknown> {
    const thread = this.#threads.get(id);
    if (thread === undefined || thread.ended !== undefined)
      throw new BootError("ERR_KTHREAD", `there is no kthread ${id} to be run`);
    const { name, cpu } = thread;
    thread.ended = this.#cpus.kthreads(cpu).runKthread({ id, args });
    try {
      return await thread.ended;
    } catch (error) {
      const { name: kind, message } = error as Error;
      this.#print(`${name} (kthread ${id} on cpu${cpu}): ${kind}: ${message}`);
      throw error;
    } finally {
      this.#threads.delete(id);
    }
  }

  /** Tells a thread to end; resolves when it has. Rejects with `ERR_KTHREAD` if it does not. One that has ended is fine. */
  async stop(id: number): Promise<void> {
    const thread = this.#threads.get(id);
    if (thread === undefined) return;
    const { name, cpu, ended } = thread;
    // A CPU that is gone has ended its threads.
    const told = this.#cpus.kthreads(cpu).stopKthread({ id });
    told.catch(() => undefined);
    if (ended === undefined) return;
    const inTime = await new Promise<boolean>((settle) => {
      const timer = this.#timers.after(STOP_TIMEOUT_MS, () => settle(false));
      const done = (): void => {
        timer.cancel();
        settle(true);
      };
      ended.then(done, done);
    });
    if (!inTime)
      throw new BootError("ERR_KTHREAD", `${name} (kthread ${id} on cpu${cpu}) does not end`);
  }

  /** Ends all of them, as far as they let themselves be ended. Never rejects. */
  async stopAll(): Promise<void> {
    const stops = Array.from(this.#threads.keys(), (id) =>
      this.stop(id).catch((error: unknown) => this.#print((error as Error).message)),
    );
    await Promise.all(stops);
  }
}
