import { describe, expect, test } from "vitest";
import {
  CallLink,
  messageLinkPair,
  type QueueHalf,
  type Timer,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { CpuSet } from "../src/smp/cpu-set.js";
import type { KthreadProcedures } from "../src/smp/kthread.js";
import { Kthreads } from "../src/smp/kthreads.js";
import type { ApplicationProcedures, BootProcedures } from "../src/smp/procedures.js";

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A CPU at the other end of its line. It answers only while it is awake. */
class Other {
  awake = true;
  halted = false;
  optimized: boolean | undefined;
  readonly link = messageLinkPair(
    () => undefined,
    () => undefined,
  );
  readonly calls: CallLink<ApplicationProcedures, BootProcedures>;
  /** How a thread of it ends. */
  endThread: (value: unknown) => void = () => undefined;

  constructor() {
    this.calls = new CallLink<ApplicationProcedures, BootProcedures>(this.link.right, {
      startQueue: () => undefined,
      askQueue: ({ message }) => message,
      stopQueue: () => undefined,
      loadKthread: () => Promise.resolve(),
      runKthread: () => new Promise((resolve) => (this.endThread = resolve)),
      stopKthread: () => Promise.resolve(),
      usePort: () => undefined,
      ping: () => undefined,
      optimizeSignals: (wanted) => {
        this.optimized = wanted;
      },
      halt: () => {
        this.halted = true;
      },
    });
  }
}

/** The clock of a thread that is held up: what became due meanwhile runs in one go when it comes back. */
class HeldUpTimers implements Timers {
  #nowMs = 0;
  #alarms: { atMs: number; readonly run: () => void }[] = [];

  now(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const alarm = { atMs: 0, run };
    const cancel = (): void => void (this.#alarms = this.#alarms.filter((one) => one !== alarm));
    const again = (newDelayMs: number): void => {
      cancel();
      alarm.atMs = this.#nowMs + newDelayMs;
      this.#alarms.push(alarm);
    };
    again(delayMs);
    return { again, cancel };
  }

  advance(elapsedMs: number): void {
    this.#nowMs += elapsedMs;
    const due = this.#alarms.filter(({ atMs }) => atMs <= this.#nowMs);
    this.#alarms = this.#alarms.filter((alarm) => !due.includes(alarm));
    for (const { run } of due) run();
  }
}

/** The boot processor with its set, and the others. */
class Rig {
  readonly timers: VirtualTimers | HeldUpTimers;
  readonly printed: string[] = [];
  readonly stopped: number[] = [];
  readonly others: readonly Other[];
  readonly cpus: CpuSet;
  readonly kthreads: Kthreads;

  constructor(count: number, timers: VirtualTimers | HeldUpTimers = new VirtualTimers()) {
    this.timers = timers;
    this.others = Array.from({ length: count - 1 }, () => new Other());
    const none: KthreadProcedures = {
      loadKthread: () => Promise.resolve(),
      runKthread: () => Promise.resolve(),
      stopKthread: () => Promise.resolve(),
    };
    this.cpus = new CpuSet({
      count,
      timers: this.timers,
      timeoutMs: 1000,
      line: (cpu) => this.others[cpu - 1]!.link.left,
      startLocalQueue: (): QueueHalf => ({ answer: () => "local", stop: () => undefined }),
      localKthreads: none,
      findDisk: (cpu, name) => {
        throw new Error(`cpu${cpu} has no channel to ${name}`);
      },
      deliverFrames: () => undefined,
      stopCpu: (cpu) => void this.stopped.push(cpu),
      print: (line) => void this.printed.push(line),
    });
    this.kthreads = new Kthreads(this.cpus, this.timers, (line) => void this.printed.push(line));
  }

  /** Delivers what is on the lines, until nothing is left. */
  async deliver(): Promise<void> {
    for (let quiet = 0; quiet < 4; quiet++) {
      for (const [index, { link, calls, awake }] of this.others.entries()) {
        if (awake)
          for (let next = link.right.receive(); next !== undefined; next = link.right.receive())
            calls.receive(next);
        for (let next = link.left.receive(); next !== undefined; next = link.left.receive())
          this.cpus.receive(next, index + 1);
      }
      await settled();
    }
  }

  async pass(ms: number): Promise<void> {
    this.timers.advance(ms);
    await this.deliver();
  }

  /** All CPUs come up. */
  async start(): Promise<void> {
    const starting = this.cpus.start();
    for (const { calls } of this.others) void calls.call("online", undefined);
    await this.deliver();
    await starting;
  }
}

describe("the start", () => {
  test("waits for every CPU, in their order", async () => {
    const rig = new Rig(3);
    let done = false;
    const starting = rig.cpus.start().then(() => (done = true));
    void rig.others[1]!.calls.call("online", undefined);
    await rig.deliver();
    expect([done, rig.cpus.online]).toEqual([false, [0, 2]]);
    void rig.others[0]!.calls.call("online", undefined);
    await rig.deliver();
    await starting;
    expect(rig.cpus.online).toEqual([0, 1, 2]);
    expect(rig.printed).toEqual(["SMP: AP CPU #1 Launched!", "SMP: AP CPU #2 Launched!"]);
  });

  test("does not wait for one that is lost, or that takes too long and is stopped", async () => {
    const rig = new Rig(3);
    const starting = rig.cpus.start();
    rig.cpus.lost(1, "no module");
    await rig.pass(29_999);
    expect(rig.stopped).toEqual([]);
    await rig.pass(1);
    expect(rig.stopped).toEqual([2]);
    rig.cpus.lost(2, "terminated");
    await starting;
    expect(rig.printed).toEqual(["cpu1: stopped: no module", "cpu2: stopped: terminated"]);
    expect(rig.cpus.online).toEqual([0]);
  });
});

describe("the watch", () => {
  test("leaves CPUs that answer alone", async () => {
    const rig = new Rig(3);
    await rig.start();
    for (let step = 0; step < 100; step++) await rig.pass(250);
    expect(rig.stopped).toEqual([]);
  });

  test("stops a CPU that does not answer, once, and fails what waits for it", async () => {
    const rig = new Rig(3);
    await rig.start();
    const handle = rig.cpus.startQueue(1, "storvsc", {}, () => undefined);
    await rig.deliver();
    const queue = await handle;
    rig.others[0]!.awake = false;
    const asked = queue.ask("anybody").catch(String);
    for (let step = 0; step < 12; step++) await rig.pass(250);
    expect(rig.stopped).toEqual([1]);
    expect(rig.printed.slice(2)).toEqual(["cpu1: no answer for 1000 ms"]);
    rig.cpus.lost(1, "terminated");
    rig.cpus.lost(1, "twice");
    expect(await asked).toBe("Error: cpu1 is gone");
    expect((await queue.lost).message).toBe("cpu1 is gone");
    expect(rig.printed.slice(3)).toEqual(["cpu1: stopped: terminated"]);
    expect(rig.cpus.online).toEqual([0, 2]);
    await expect(rig.cpus.startQueue(1, "storvsc", {}, () => undefined)).rejects.toThrow("is gone");
    for (let step = 0; step < 20; step++) await rig.pass(250);
    expect(rig.stopped).toEqual([1]);
  });

  test("does not take its own delay for silence", async () => {
    const rig = new Rig(2, new HeldUpTimers());
    await rig.start();
    // Ten times as long as a CPU may be silent; and the clock is looked at before the lines.
    for (let round = 0; round < 5; round++) await rig.pass(10_000);
    expect(rig.stopped).toEqual([]);
    rig.others[0]!.awake = false;
    for (let round = 0; round < 5; round++) await rig.pass(10_000);
    expect(rig.stopped).toEqual([1]);
  });
});

test("queues are made where they belong", async () => {
  const rig = new Rig(2);
  await rig.start();
  const local = await rig.cpus.startQueue(0, "storvsc", {}, () => undefined);
  expect(await local.ask("who")).toBe("local");
  const starting = rig.cpus.startQueue(1, "storvsc", {}, () => undefined);
  await rig.deliver();
  const asking = (await starting).ask("who");
  await rig.deliver();
  expect(await asking).toBe("who");
  await expect(rig.cpus.startQueue(2, "storvsc", {}, () => undefined)).rejects.toThrow("no CPU 2");
});

test("other CPUs print, and ask for disks", async () => {
  const rig = new Rig(2);
  await rig.start();
  const { calls } = rig.others[0]!;
  const found = calls.call("findDisk", "da0").catch(String);
  void calls.call("print", "hello");
  await rig.deliver();
  expect(await found).toBe("Error: cpu1 has no channel to da0");
  expect(rig.printed.at(-1)).toBe("hello");
});

describe("the end", () => {
  test("halts the CPUs that are up, and nobody watches them any more", async () => {
    const rig = new Rig(3);
    await rig.start();
    rig.cpus.lost(2, "terminated");
    const halting = rig.cpus.halt();
    await rig.deliver();
    await halting;
    expect(rig.others.map(({ halted }) => halted)).toEqual([true, false]);
    rig.cpus.lost(1, "ended with code 0");
    expect(rig.printed.at(-1)).toBe("cpu2: stopped: terminated");
    rig.others[0]!.awake = false;
    for (let step = 0; step < 20; step++) await rig.pass(250);
    expect(rig.stopped).toEqual([]);
  });

  test("does not wait for ever", async () => {
    const rig = new Rig(2);
    await rig.start();
    rig.others[0]!.awake = false;
    const halting = rig.cpus.halt();
    await rig.pass(1000);
    await halting;
  });
});

test("signal optimization reaches every CPU that is there", async () => {
  const rig = new Rig(3);
  await rig.start();
  rig.cpus.lost(1, "terminated");
  const setting = rig.cpus.optimizeSignals(false);
  await rig.deliver();
  await setting;
  expect(rig.others.map(({ optimized }) => optimized)).toEqual([undefined, false]);
});

describe("kernel threads", () => {
  test("that do not end are told of, and left", async () => {
    const rig = new Rig(2);
    await rig.start();
    const loading = rig.kthreads.load({ file: "/some/where/deaf.mjs", cpu: 1 });
    await rig.deliver();
    const { id, name } = await loading;
    expect([name, rig.kthreads.list()]).toEqual(["deaf", [{ id, name: "deaf", cpu: 1 }]]);
    const running = rig.kthreads.run(id, undefined);
    const stopping = rig.kthreads.stop(id).catch((error: unknown) => error);
    await rig.pass(5_000);
    expect(await stopping).toMatchObject({
      code: "ERR_KTHREAD",
      message: `deaf (kthread ${id} on cpu1) does not end`,
    });
    const all = rig.kthreads.stopAll();
    await rig.pass(5_000);
    await all;
    expect(rig.printed.at(-1)).toBe(`deaf (kthread ${id} on cpu1) does not end`);
    rig.others[0]!.endThread("late");
    await rig.deliver();
    expect(await running).toBe("late");
    expect(rig.kthreads.list()).toEqual([]);
  });

  test("run once", async () => {
    const rig = new Rig(1);
    await rig.start();
    const { id } = await rig.kthreads.load({ file: "thread.mjs" });
    await rig.kthreads.run(id, undefined);
    await expect(rig.kthreads.run(id, undefined)).rejects.toMatchObject({ code: "ERR_KTHREAD" });
  });
});
