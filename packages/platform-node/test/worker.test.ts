import { execFileSync } from "node:child_process";
import { mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import {
  createDoorbells,
  Pump,
  startWorker,
  type PumpKind,
  type StartWorkerOptions,
  type WorkerHandle,
} from "@hyperv-is/platform-node";

interface Command {
  readonly command: string;
  readonly argument?: unknown;
}

/** The worker under test, with what it sent and what became of it. */
interface Subject {
  readonly worker: WorkerHandle<Command>;
  readonly messages: unknown[];
  readonly errors: Error[];
  readonly events: string[];
  /** Resolves once so many messages have come. */
  readonly received: (count: number) => Promise<unknown[]>;
}

const running: WorkerHandle<Command>[] = [];

function subject(
  data: { kind: PumpKind; failAt?: string },
  options: Partial<StartWorkerOptions<unknown>> = {},
): Subject {
  const messages: unknown[] = [];
  const errors: Error[] = [];
  const events: string[] = [];
  let arrived: (() => void) | undefined;
  const worker = startWorker<Command>({
    entry: new URL("./workers/subject.js", import.meta.url),
    name: "subject",
    data,
    onMessage(message) {
      messages.push(message);
      events.push("message");
      arrived?.();
    },
    onError(error) {
      errors.push(error);
      events.push("error");
    },
    onExit: () => events.push("exit"),
    ...options,
  });
  running.push(worker);
  const received = async (count: number): Promise<unknown[]> => {
    while (messages.length < count) await new Promise<void>((resolve) => (arrived = resolve));
    return messages;
  };
  return { worker, messages, errors, events, received };
}

afterEach(async () => {
  await Promise.all(running.splice(0).map((worker) => worker.stop()));
});

describe.each(["async", "blocking"] as const)("a worker with a pump that is %s", (kind) => {
  test("gets messages while it sleeps, in order, and answers", async () => {
    const { worker, received } = subject({ kind });
    for (let index = 0; index < 200; index++) worker.post({ command: "echo", argument: index });
    expect(await received(200)).toEqual(Array.from({ length: 200 }, (_, index) => index));
    worker.post({ command: "echo", argument: { nested: [1n, new Uint8Array([2])] } });
    expect((await received(201))[200]).toEqual({ nested: [1n, new Uint8Array([2])] });
  });

  test("hears why it was rung", async () => {
    const { worker, received } = subject({ kind });
    worker.doorbell.ring(1 << 20);
    expect(await received(1)).toEqual([{ causes: 1 << 20 }]);
  });

  test("runs timers in order though it sleeps without end otherwise", async () => {
    const { worker, received } = subject({ kind });
    worker.post({ command: "timers", argument: [30, 5, 0, 12] });
    expect(await received(4)).toEqual([0, 5, 12, 30]);
  });

  test("serves Node while something on it needs that", async () => {
    const { worker, received } = subject({ kind });
    const file = new URL("../package.json", import.meta.url);
    worker.post({ command: "read file", argument: file.pathname });
    expect((await received(1))[0]).toContain("@hyperv-is/platform-node");
    worker.post({ command: "echo", argument: "and goes on" });
    expect((await received(2))[1]).toBe("and goes on");
  });

  test("lets a chain of promises end before it sleeps", async () => {
    const { worker, received } = subject({ kind });
    worker.post({ command: "microtasks", argument: 20 });
    expect(await received(21)).toEqual(Array.from({ length: 21 }, (_, index) => index));
  });

  test("stops when asked, and its last messages arrive before it is gone", async () => {
    const { worker, messages, events } = subject({ kind });
    worker.post({ command: "echo", argument: 1 });
    await worker.stop();
    expect(await worker.exited).toEqual({ code: 0, error: undefined, stopRequested: true });
    expect(messages.at(-1)).toBe("stopped");
    expect(events.at(-1)).toBe("exit");
    await worker.stop();
    worker.post({ command: "echo", argument: "nobody hears this" });
  });

  test.each([
    ["begin", "at begin"],
    ["main", "at main"],
    ["drain", "at drain"],
  ])("that throws at %s says so and is gone", async (failAt, message) => {
    const { worker, errors, events } = subject({ kind, failAt });
    const exit = await worker.exited;
    expect(exit).toMatchObject({ code: 1, stopRequested: false, error: { message } });
    expect(errors).toEqual([exit.error]);
    expect(events.at(-1)).toBe("exit");
    if (failAt === "drain") expect(exit.error).toMatchObject({ code: "ERR_BAD_MODULE" });
    await worker.stop();
  });

  test.each(["throw", "reject"])(
    "that fails later, by a %s, says so and is gone",
    async (command) => {
      const { worker, received } = subject({ kind });
      worker.post({ command: "echo", argument: "alive" });
      await received(1);
      worker.post({ command });
      worker.doorbell.ring();
      const { code, error } = await worker.exited;
      expect(code).toBe(1);
      expect(error?.message).toBe(command === "throw" ? "at drain" : "nobody handles this");
    },
  );

  test("that never comes back is terminated", async () => {
    const { worker, received } = subject({ kind }, { stopTimeoutMs: 50 });
    worker.post({ command: "loop" });
    await received(1);
    await worker.stop();
    expect(await worker.exited).toMatchObject({ code: 1, stopRequested: true });
  });
});

test("a worker that uses too much memory is reported, and only that worker ends", async () => {
  const { worker } = subject(
    { kind: "blocking" },
    { resourceLimits: { maxOldGenerationSizeMb: 16 } },
  );
  worker.post({ command: "use memory" });
  expect((await worker.exited).error).toMatchObject({ code: "ERR_WORKER_OUT_OF_MEMORY" });
});

test.runIf(process.platform === "linux")(
  "a worker inside a system call cannot be ended, which is said instead of waiting for ever",
  async () => {
    const directory = mkdtempSync(join(tmpdir(), "platform-node-"));
    const fifo = join(directory, "fifo");
    execFileSync("mkfifo", [fifo]);
    const { worker, received } = subject({ kind: "blocking" }, { stopTimeoutMs: 50 });
    running.pop();
    worker.post({ command: "system call", argument: fifo });
    await received(1);
    await expect(worker.stop()).rejects.toMatchObject({ code: "ERR_WORKER_STUCK" });
    writeSync(openSync(fifo, "r+"), "x");
    expect(await worker.exited).toMatchObject({ stopRequested: true });
    rmSync(directory, { recursive: true });
  },
);

test("a thread that pumps too is rung by the worker's messages", async () => {
  const ownBell = createDoorbells(1)[0]!;
  const pump = new Pump("async", ownBell);
  const worker = startWorker<Command, string>({
    entry: new URL("./workers/subject.js", import.meta.url),
    name: "subject",
    data: { kind: "blocking" },
    ownBell,
  });
  running.push(worker);
  worker.post({ command: "echo", argument: "to the pump" });
  const heard: string[] = [];
  await pump.run({
    drain() {
      const message = worker.link.receive();
      if (message === undefined) return false;
      heard.push(message);
      ownBell.requestStop();
      return true;
    },
  });
  expect(heard).toEqual(["to the pump"]);
});

describe("the entry file", () => {
  const directory = mkdtempSync(join(tmpdir(), "platform-node-"));
  const file = join(directory, "entry.mjs");
  writeFileSync(file, "");

  test.each([
    ["a URL", pathToFileURL(file)],
    ["a path", file],
  ])("may be %s", async (_, entry) => {
    const worker = startWorker({ entry, name: "empty" });
    expect((await worker.exited).code).toBe(0);
  });

  test("may be a subpath of a package that the caller sees", async () => {
    const worker = startWorker({
      entry: "@hyperv-is/platform-node/package.json",
      from: import.meta.url,
      name: "not JavaScript",
    });
    expect((await worker.exited).error).toBeInstanceOf(Error);
  });

  test.skipIf("typescript" in process.features)(
    "is not TypeScript where Node cannot run that",
    () => {
      expect(() => startWorker({ entry: fileURLToPath(import.meta.url), name: "source" })).toThrow(
        expect.objectContaining({
          code: "ERR_WORKER_ENTRY",
          message: expect.stringContaining("is TypeScript") as string,
        }) as Error,
      );
    },
  );

  test.each([
    ["a URL", pathToFileURL(join(directory, "missing.mjs"))],
    ["a path", join(directory, "missing.mjs")],
    ["a subpath", "@hyperv-is/platform-node/missing"],
  ])("that is missing is said at once: %s", (_, entry) => {
    expect(() => startWorker({ entry, name: "missing", from: import.meta.url })).toThrow(
      expect.objectContaining({ code: "ERR_WORKER_ENTRY" }) as Error,
    );
  });
});
