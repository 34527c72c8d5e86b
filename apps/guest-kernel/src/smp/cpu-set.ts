import {
  CallLink,
  RemoteQueues,
  localQueue,
  type MessageLink,
  type QueueHalf,
  type QueueHandle,
  type TellControl,
  type Timer,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { BOOT_CPU } from "./application-processor.js";
import type { PortUse, RelayedFrames } from "../net/hn/port-use.js";
import type { KthreadProcedures } from "./kthread.js";
import type { ApplicationProcedures, BootProcedures, DiskPlace } from "./procedures.js";

/** What the boot processor has to work with. */
export interface CpuSetOptions {
  /** CPUs of the machine, the boot processor included. */
  readonly count: number;
  readonly timers: Timers;
  /** How long a CPU may leave a call unanswered before it is stopped. */
  readonly timeoutMs: number;
  /** The line to another CPU. */
  line(cpu: number): MessageLink;
  /** Makes a queue half on the boot processor. */
  startLocalQueue(driver: string, description: unknown, tell: TellControl): QueueHalf;
  /** The kernel threads of the boot processor. */
  readonly localKthreads: KthreadProcedures;
  /** Where a CPU finds a disk; throws if it does not. */
  findDisk(cpu: number, name: string): DiskPlace;
  /** Takes frames that came on another CPU. */
  deliverFrames(frames: RelayedFrames): void;
  /** Has the machine end a CPU that does not answer; `lost` follows. */
  readonly stopCpu: (cpu: number) => void;
  /** One line for dmesg. */
  readonly print: (line: string) => void;
}

/** How long a CPU may take until it is up. */
const START_TIMEOUT_MS = 30_000;

/** A CPU as the boot processor knows it. */
class OtherCpu {
  readonly number: number;
  readonly calls: CallLink<BootProcedures, ApplicationProcedures>;
  readonly queues: RemoteQueues;
  /** "silent": it does not answer, and is being stopped. */
  state: "starting" | "online" | "silent" | "halted" | "lost" = "starting";
  /** Resolves when it is up, or lost. */
  readonly started: Promise<void>;
  readonly lost: Promise<Error>;
  #start: () => void = () => undefined;
  #lose: (reason: Error) => void = () => undefined;

  constructor(number: number, options: CpuSetOptions) {
    this.number = number;
    this.started = new Promise((resolve) => (this.#start = resolve));
    this.lost = new Promise((resolve) => (this.#lose = resolve));
    this.calls = new CallLink<BootProcedures, ApplicationProcedures>(options.line(number), {
      online: () => this.online(),
      tellControl: (message) => this.queues.tellControl(message),
      findDisk: (name) => options.findDisk(number, name),
      deliverFrames: (frames) => options.deliverFrames(frames),
      print: (line) => options.print(line),
    });
    this.queues = new RemoteQueues(number, this.calls, this.lost);
  }

  online(): void {
    if (this.state === "starting") this.state = "online";
    this.#start();
  }

  lose(reason: Error): void {
    this.state = "lost";
    this.calls.close(reason);
    this.#lose(reason);
    this.#start();
  }
}

/**
 * The CPUs of the guest as its boot processor sees them: which are up, what runs on them, and which are gone. A
 * CPU that throws, ends or does not answer is lost: all that waits for it fails, and the rest goes on.
 */
export class CpuSet {
  readonly #options: CpuSetOptions;
  readonly #others: readonly OtherCpu[];
  #watch: Timer | undefined;

  constructor(options: CpuSetOptions) {
    this.#options = options;
    this.#others = Array.from(
      { length: options.count - 1 },
      (_, index) => new OtherCpu(index + 1, options),
    );
  }

  /** CPUs of the machine. */
  get count(): number {
    return this.#options.count;
  }

  /** The CPUs that are up, the boot processor first. */
  get online(): readonly number[] {
    const others = this.#others.filter(({ state }) => state === "online");
    return [BOOT_CPU, ...others.map(({ number }) => number)];
  }

  /** Waits until every CPU is up or lost, and watches them from then on. */
  async start(): Promise<void> {
    const { timers, stopCpu, print } = this.#options;
    const late = timers.after(START_TIMEOUT_MS, () => {
      for (const { state, number } of this.#others) if (state === "starting") stopCpu(number);
    });
    for (const other of this.#others) {
      await other.started;
      if (other.state === "online") print(`SMP: AP CPU #${other.number} Launched!`);
    }
    late.cancel();
    this.#armWatch();
  }

  /** A message of another CPU. */
  receive(message: unknown, from: number): void {
    this.#others[from - 1]?.calls.receive(message);
  }

  /** The machine says that a CPU has ended. */
  lost(cpu: number, reason: string): void {
    const other = this.#others[cpu - 1];
    if (other === undefined || other.state === "halted" || other.state === "lost") return;
    this.#options.print(`cpu${cpu}: stopped: ${reason}`);
    other.lose(new Error(`cpu${cpu} is gone`));
  }

  /** Makes a driver's queue half on a CPU. Rejects if it cannot be made there, or the CPU is gone. */
  async startQueue(
    cpu: number,
    driver: string,
    description: unknown,
    told: TellControl,
  ): Promise<QueueHandle> {
    if (cpu === BOOT_CPU)
      return localQueue(cpu, this.#options.startLocalQueue(driver, description, told));
    const other = this.#others[cpu - 1];
    if (other === undefined) throw new RangeError(`there is no CPU ${cpu}`);
    return other.queues.start(driver, description, told);
  }

  /** Has another CPU use a port of its own. Rejects if it has none of that channel, or is gone. */
  usePort(cpu: number, use: PortUse): Promise<void> {
    return this.#others[cpu - 1]!.calls.call("usePort", use);
  }

  /** What a CPU does about kernel threads; all of it rejects when the CPU is gone. */
  kthreads(cpu: number): KthreadProcedures {
    if (cpu === BOOT_CPU) return this.#options.localKthreads;
    const { calls } = this.#others[cpu - 1]!;
    return {
      loadKthread: (request) => calls.call("loadKthread", request),
      runKthread: (request) => calls.call("runKthread", request),
      stopKthread: (request) => calls.call("stopKthread", request),
    };
  }

  /** Sets `GuestCpu.signalOptimization` of all CPUs but this one. A CPU that is gone does not mind. */
  async optimizeSignals(wanted: boolean): Promise<void> {
    const set = ({ calls }: OtherCpu): Promise<void> => calls.call("optimizeSignals", wanted);
    await Promise.allSettled(this.#others.map(set));
  }

  /** Ends all CPUs but this one; their channels are closed. Resolves when they have agreed, or the time for that is up. */
  async halt(): Promise<void> {
    const { timers, timeoutMs } = this.#options;
    this.#watch?.cancel();
    const running = this.#others.filter(({ state }) => state === "online");
    for (const other of running) other.state = "halted";
    const halted = running.map(({ calls }) => calls.call("halt", undefined).catch(() => undefined));
    await new Promise<void>((resolve) => {
      const timer = timers.after(timeoutMs, resolve);
      void Promise.all(halted).then(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /** Asks every CPU, again and again, whether it still answers; stops those that do not. */
  #armWatch(): void {
    const { timeoutMs, timers, stopCpu, print } = this.#options;
    const running = this.#others.filter(({ state }) => state === "online");
    if (running.length === 0) return;
    const silent = new Set(running);
    for (const other of running)
      other.calls.call("ping", undefined).then(
        () => silent.delete(other),
        () => silent.delete(other),
      );
    this.#watch = timers.after(timeoutMs / 2, () => {
      // If this CPU was held up, the answers wait to be taken.
      this.#watch = timers.after(timeoutMs / 2, () => {
        for (const other of silent) {
          other.state = "silent";
          print(`cpu${other.number}: no answer for ${timeoutMs} ms`);
          stopCpu(other.number);
        }
        this.#armWatch();
      });
    });
  }
}
