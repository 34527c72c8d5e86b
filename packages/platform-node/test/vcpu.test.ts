import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import type { ChannelDescription } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import {
  connectCpus,
  createDoorbells,
  createGuestMemory,
  startWorker,
  type PumpKind,
  type StartWorkerOptions,
  type VcpuData,
  type WorkerExit,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { CROSSOVER_WORDS, guestBell, hostBell } from "./workers/crossover.js";

const kinds: readonly PumpKind[] = ["async", "blocking"];
const MiB = 2 ** 20;
const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_007);
const file = (name: string): string =>
  fileURLToPath(new URL(`./workers/${name}.js`, import.meta.url));

const running: WorkerHandle[] = [];
afterEach(async () => {
  await Promise.all(running.splice(0).map((worker) => worker.stop()));
});

/** A worker and what it says, one message after the other. */
class Talk {
  readonly worker: WorkerHandle;
  readonly #heard: unknown[] = [];
  #wanted: (() => void) | undefined;
  #exit: WorkerExit | undefined;

  constructor(options: Omit<StartWorkerOptions<unknown>, "onMessage" | "onExit">) {
    this.worker = startWorker({
      ...options,
      onMessage: (message) => {
        this.#heard.push(message);
        this.#wanted?.();
      },
      onExit: (exit) => {
        this.#exit = exit;
        this.#wanted?.();
      },
    });
    running.push(this.worker);
  }

  /** The next message; rejects if the worker ends instead. */
  async next(): Promise<unknown> {
    while (this.#heard.length === 0) {
      if (this.#exit) throw new Error(`${this.worker.name} ended`, { cause: this.#exit.error });
      await new Promise<void>((resolve) => (this.#wanted = resolve));
    }
    return this.#heard.shift();
  }

  async ask(order: unknown): Promise<unknown> {
    this.worker.post(order);
    return this.next();
  }
}

/** A guest processor and a host worker with a channel between them. */
class EchoMachine {
  readonly guest: Talk;
  readonly channel: ChannelDescription;
  readonly #echo: object;
  readonly #startHost: () => Talk;
  #host: Talk | undefined;

  /** @param echo - packets of 16 to 1,016 bytes unless told. @param host - what the host worker does wrong. */
  constructor(kind: PumpKind, echo: object, host: object = {}, driverFiles: string[] = []) {
    const words = new Int32Array(new SharedArrayBuffer(CROSSOVER_WORDS * 4));
    const memory = createGuestMemory(MiB);
    // One data page each.
    const ring = { outgoingPages: 2, incomingPages: 2, ringAddress: MiB / 2 };
    this.channel = {
      relid: 9,
      subChannelIndex: 0,
      targetVp: 0,
      ...ring,
      signal: { connectionId: 9 },
    };
    this.#echo = { channel: this.channel, seed, leastWords: 0, mostWords: 250, ...echo };
    const data: VcpuData = {
      index: 0,
      memory: memory.wasm,
      arenaAddress: PAGE_SIZE,
      arenaBytes: MiB / 2 - PAGE_SIZE,
      pump: kind,
      driverFiles,
      program: { words },
    };
    this.guest = new Talk({
      entry: new URL("./workers/vcpu.js", import.meta.url),
      name: "vCPU 0",
      doorbell: guestBell(words),
      data,
    });
    this.#startHost = () =>
      new Talk({
        entry: new URL("./workers/echo-host.js", import.meta.url),
        name: "host worker",
        doorbell: hostBell(words),
        stopTimeoutMs: 200,
        data: { memory: memory.wasm, words, echo: this.#echo, ...host },
      });
  }

  get host(): Talk {
    if (this.#host === undefined) throw new Error("not begun");
    return this.#host;
  }

  /** Boots the processor, then starts the host worker. @returns The names of the drivers. */
  async boot(): Promise<unknown> {
    const up = await this.guest.next();
    // Only now does the guest have a page for event flags.
    this.#host = this.#startHost();
    return up;
  }

  order(order: "open" | "open later", driver = "echo"): object {
    return { order, driver, echo: this.#echo };
  }

  /** Boots, binds the channel and begins to send. @returns The names of the drivers. */
  async begin(driver = "echo"): Promise<unknown> {
    const up = await this.boot();
    expect(await this.guest.ask(this.order("open", driver))).toBe("bound");
    this.guest.worker.post({ order: "go" });
    return up;
  }
}

describe.each(kinds)(`a processor on a pump that is %s, seed ${seed}`, (kind) => {
  test.each([
    ["several packets at a time", { packets: 30_000 }],
    // 4,016 of the 4,096 bytes and a trailer: whatever the offset, hardly one does not wrap.
    ["one that wraps at a time", { packets: 10_000, leastWords: 990, mostWords: 1_000 }],
  ])("moves packets through small rings and back, %s, each once and whole", async (_, echo) => {
    const machine = new EchoMachine(kind, echo);
    expect(await machine.begin()).toEqual({ up: ["echo"] });
    const result = await machine.guest.next();
    expect(result).toMatchObject({
      reason: "closed",
      echoed: echo.packets,
      error: undefined,
      counters: { packetsOut: echo.packets, packetsIn: echo.packets },
    });
    machine.guest.worker.post({ order: "halt" });
    expect(await machine.guest.worker.exited).toMatchObject({ code: 0, stopRequested: false });
    await machine.host.worker.stop();
    expect(await machine.host.worker.exited).toMatchObject({ code: 0, stopRequested: true });
  });

  test("loads a driver from a file, when it starts and while it runs", async () => {
    const machine = new EchoMachine(kind, { packets: 100 }, {}, [file("echo-driver-file")]);
    expect(await machine.begin("echo_file")).toEqual({ up: ["echo", "echo_file"] });
    expect(await machine.guest.next()).toMatchObject({ echoed: 100 });
    const load = (path: string): Promise<unknown> =>
      machine.guest.ask({ order: "load", file: path });
    expect(await load(file("echo-driver"))).toEqual({ loaded: "echo" });
    expect(await load(file("other-interface"))).toEqual({
      code: "ERR_BAD_MODULE",
      text: expect.stringContaining("kernel interface 77, this kernel has") as string,
    });
    expect(await load(file("payload"))).toEqual({
      code: "ERR_BAD_MODULE",
      text: expect.stringContaining("is not a driver module") as string,
    });
    expect(await load("/nowhere/missing.ko")).toMatchObject({ code: "ERR_BAD_MODULE" });
  });

  test("a host worker that throws in the middle is reported, and the channel closes", async () => {
    const machine = new EchoMachine(kind, { packets: 1_000_000 }, { throwAt: 5_000 });
    await machine.begin();
    const exit = await machine.host.worker.exited;
    expect(exit).toMatchObject({ code: 1, stopRequested: false });
    expect(exit.error?.message).toBe("told to throw at packet 5000");
    const result = await machine.guest.ask({ order: "rescind", channel: machine.channel });
    expect(result).toMatchObject({ reason: "rescinded", error: undefined });
    const { echoed } = result as { echoed: number };
    expect(echoed).toBeGreaterThan(1_000);
    expect(echoed).toBeLessThanOrEqual(5_000);
  });

  test("a host worker that hangs in the middle is killed, and the channel closes", async () => {
    const machine = new EchoMachine(kind, { packets: 1_000_000 }, { hangAt: 5_000 });
    await machine.begin();
    expect(await machine.host.next()).toBe("hanging");
    await machine.host.worker.stop();
    expect(await machine.host.worker.exited).toMatchObject({ code: 1, stopRequested: true });
    const result = await machine.guest.ask({ order: "rescind", channel: machine.channel });
    expect(result).toMatchObject({ reason: "rescinded" });
  });

  test("a host that breaks the ring closes the channel, not the processor", async () => {
    const machine = new EchoMachine(kind, { packets: 1_000_000 }, { corruptAt: 5_000 });
    await machine.begin();
    expect(await machine.guest.next()).toMatchObject({
      reason: "corrupt",
      error: "ERR_RING_CORRUPT",
    });
    expect(await machine.guest.ask({ order: "load", file: file("echo-driver") })).toEqual({
      loaded: "echo",
    });
  });

  test("a driver that throws ends its processor with that error, and the host worker lives", async () => {
    const machine = new EchoMachine(kind, { packets: 100 });
    await machine.begin();
    await machine.guest.next();
    machine.guest.worker.post({ order: "open", driver: "absent", echo: {} });
    const { code, error } = await machine.guest.worker.exited;
    expect(code).toBe(1);
    expect(error?.message).toBe("absent is not loaded on CPU 0");
    await machine.host.worker.stop();
    expect(await machine.host.worker.exited).toMatchObject({ code: 0 });
  });
});

test("a channel that one of Node's events binds is looked at, though its signal came before", async () => {
  const machine = new EchoMachine("async", { packets: 1 }, { greets: true });
  await machine.boot();
  expect(await machine.host.next()).toBe("greeted");
  expect(await machine.guest.ask(machine.order("open later"))).toBe("heard");
});

test("processors pass messages to each other, whatever pumps they are on", async () => {
  const bells = createDoorbells(3);
  const memory = createGuestMemory(MiB);
  const words = new Int32Array(new SharedArrayBuffer(CROSSOVER_WORDS * 4));
  const cpus = connectCpus(bells).map((peers, index) => {
    const data: VcpuData = {
      index,
      memory: memory.wasm,
      arenaAddress: (index + 1) * 16 * PAGE_SIZE,
      arenaBytes: 16 * PAGE_SIZE,
      peers,
      program: { words },
    };
    return new Talk({
      entry: new URL("./workers/vcpu.js", import.meta.url),
      name: `vCPU ${index}`,
      doorbell: bells[index]!,
      data,
      transfer: peers.map(({ port }) => port),
    });
  });
  for (const cpu of cpus) expect(await cpu.next()).toEqual({ up: ["echo"] });
  cpus[0]!.worker.post({ order: "hop", left: 3_001 });
  expect(await cpus[3_001 % 3]!.next()).toEqual({ from: 0, at: 1 });
});
