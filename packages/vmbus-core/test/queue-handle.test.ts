import { describe, expect, test } from "vitest";
import {
  CallLink,
  QueueTable,
  RemoteQueues,
  localQueue,
  messageLinkPair,
  type ControlProcedures,
  type QueueHalf,
  type QueueProcedures,
  type TellControl,
} from "../src/index.js";

/** A queue half that takes notes. */
class Notes implements QueueHalf {
  readonly description: unknown;
  readonly tell: TellControl;
  readonly stops: (string | undefined)[] = [];

  constructor(description: unknown, tell: TellControl) {
    this.description = description;
    this.tell = tell;
  }

  answer(message: unknown): unknown {
    if (message === "fail") throw new Error("no such question");
    return { answered: message };
  }

  stop(reason?: string): void {
    this.stops.push(reason);
    this.tell("stopped");
  }
}

/** The boot processor, CPU 3 with its queues, and the line between them. */
class TwoCpus {
  readonly made: Notes[] = [];
  readonly remote: RemoteQueues;
  readonly calls: CallLink<ControlProcedures, QueueProcedures>;
  lose: (reason: Error) => void = () => undefined;
  readonly #link = messageLinkPair(
    () => undefined,
    () => undefined,
  );
  readonly #far: CallLink<QueueProcedures, ControlProcedures>;

  constructor() {
    const { left, right } = this.#link;
    this.calls = new CallLink<ControlProcedures, QueueProcedures>(left, {
      tellControl: (message) => this.remote.tellControl(message),
    });
    const lost = new Promise<Error>((resolve) => {
      this.lose = (reason) => {
        this.calls.close(reason);
        resolve(reason);
      };
    });
    this.remote = new RemoteQueues(3, this.calls, lost);
    const table = new QueueTable(
      ({ driver, description }, tell) => {
        if (driver !== "notes") throw new Error(`${driver} is not loaded`);
        const notes = new Notes(description, tell);
        this.made.push(notes);
        return notes;
      },
      (queue, message) => void this.#far.call("tellControl", { queue, message }),
    );
    this.#far = new CallLink<QueueProcedures, ControlProcedures>(right, table);
  }

  async settle<T>(promise: Promise<T>): Promise<T> {
    promise.catch(() => undefined);
    for (let turn = 0; turn < 10; turn++) {
      const { left, right } = this.#link;
      for (let next = right.receive(); next !== undefined; next = right.receive())
        this.#far.receive(next);
      for (let next = left.receive(); next !== undefined; next = left.receive())
        this.calls.receive(next);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return promise;
  }
}

describe("a queue half on another CPU", () => {
  test("is made from its description there, answers, and tells", async () => {
    const cpus = new TwoCpus();
    const told: unknown[] = [];
    const starting = cpus.remote.start("notes", { channel: 7 }, (message) => told.push(message));
    const handle = await cpus.settle(starting);
    expect(handle).toMatchObject({ cpu: 3, local: undefined });
    expect(cpus.made[0]!.description).toEqual({ channel: 7 });
    expect(await cpus.settle(handle.ask("how"))).toEqual({ answered: "how" });
    await expect(cpus.settle(handle.ask("fail"))).rejects.toThrow("no such question");
    cpus.made[0]!.tell("news");
    await cpus.settle(Promise.resolve());
    expect(told).toEqual(["news"]);
  });

  test("is told from its neighbours", async () => {
    const cpus = new TwoCpus();
    const told: string[] = [];
    const start = (name: string) =>
      cpus.settle(
        cpus.remote.start("notes", name, (message) => told.push(`${name} ${String(message)}`)),
      );
    const first = await start("first");
    await start("second");
    cpus.made[1]!.tell(1);
    await cpus.settle(first.stop("rescinded"));
    cpus.made[0]!.tell(2);
    cpus.made[1]!.tell(3);
    await cpus.settle(Promise.resolve());
    expect(cpus.made.map(({ stops }) => stops)).toEqual([["rescinded"], []]);
    // What was told before the end of the stop still arrives, what comes later does not.
    expect(told).toEqual(["second 1", "first stopped", "second 3"]);
    await expect(cpus.settle(first.ask("gone"))).rejects.toThrow("there is no queue 1");
    await cpus.settle(first.stop());
  });

  test("that cannot be made fails the start", async () => {
    const cpus = new TwoCpus();
    const starting = cpus.remote.start("other", undefined, () => undefined);
    await expect(cpus.settle(starting)).rejects.toThrow("other is not loaded");
  });

  test("is lost with its CPU: what waits fails, and stopping it is no problem", async () => {
    const cpus = new TwoCpus();
    const handle = await cpus.settle(cpus.remote.start("notes", undefined, () => undefined));
    const waiting = handle.ask("anybody?").catch(String);
    cpus.lose(new Error("cpu3 is gone"));
    expect(await waiting).toBe("Error: cpu3 is gone");
    expect((await handle.lost).message).toBe("cpu3 is gone");
    await handle.stop();
    await expect(cpus.remote.start("notes", undefined, () => undefined)).rejects.toThrow(
      "cpu3 is gone",
    );
  });
});

test("a queue half on the same CPU looks the same, and is at hand", async () => {
  const told: unknown[] = [];
  const notes = new Notes(1, (message) => told.push(message));
  const handle = localQueue(0, notes);
  expect(handle).toMatchObject({ cpu: 0, local: notes });
  expect(await handle.ask("how")).toEqual({ answered: "how" });
  await expect(handle.ask("fail")).rejects.toThrow("no such question");
  await handle.stop("rescinded");
  expect(notes.stops).toEqual(["rescinded"]);
  expect(told).toEqual(["stopped"]);
});
