import { expect, test } from "vitest";
import { CallLink, RemoteError, VmbusError, messageLinkPair } from "../src/index.js";

interface Ours {
  add(pair: readonly [number, number]): number;
  later(text: string): Promise<string>;
  fail(code: string): never;
  unclonable(): () => void;
}

interface Theirs {
  heard(text: string): void;
}

/** Two CPUs with a line between them; `run` delivers what waits. */
function connect(): {
  readonly near: CallLink<Theirs, Ours>;
  readonly far: CallLink<Ours, Theirs>;
  readonly calls: string[];
  readonly heard: string[];
  readonly release: (() => void)[];
  readonly run: () => Promise<void>;
} {
  const { left, right } = messageLinkPair(
    () => undefined,
    () => undefined,
  );
  const calls: string[] = [];
  const heard: string[] = [];
  const release: (() => void)[] = [];
  const near = new CallLink<Theirs, Ours>(left, {
    heard: (text) => {
      heard.push(text);
    },
  });
  const far: CallLink<Ours, Theirs> = new CallLink<Ours, Theirs>(right, {
    add: ([a, b]) => {
      calls.push(`add ${a} ${b}`);
      return a + b;
    },
    later: (text) => {
      calls.push(text);
      return new Promise((resolve) => release.push(() => resolve(text)));
    },
    fail: (code) => {
      throw new VmbusError(code, "it failed");
    },
    unclonable: () => () => undefined,
  });
  const run = async (): Promise<void> => {
    for (let quiet = 0; quiet < 3; quiet++) {
      for (let next = right.receive(); next !== undefined; next = right.receive())
        far.receive(next);
      for (let next = left.receive(); next !== undefined; next = left.receive()) near.receive(next);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  return { near, far, calls, heard, release, run };
}

test("a call returns what the procedure returns, and calls go both ways", async () => {
  const { near, far, heard, run } = connect();
  const sum = near.call("add", [2, 3]);
  const told = far.call("heard", "hello");
  await run();
  expect(await sum).toBe(5);
  await told;
  expect(heard).toEqual(["hello"]);
});

test("procedures run in the order of the calls; answers come when they are ready", async () => {
  const { near, calls, release, run } = connect();
  const settled: string[] = [];
  void near.call("later", "first").then((text) => void settled.push(text));
  void near.call("later", "second").then((text) => void settled.push(text));
  void near.call("add", [1, 1]).then(() => void settled.push("sum"));
  await run();
  expect(calls).toEqual(["first", "second", "add 1 1"]);
  expect(settled).toEqual(["sum"]);
  release[1]!();
  await run();
  release[0]!();
  await run();
  expect(settled).toEqual(["sum", "second", "first"]);
});

test("what a procedure throws arrives with its name, message and code", async () => {
  const { near, run } = connect();
  const failed = near.call("fail", "ERR_SOMETHING");
  const caught = failed.catch((error: unknown) => error as RemoteError);
  await run();
  const error = await caught;
  expect(error).toBeInstanceOf(RemoteError);
  expect(error).toMatchObject({
    name: "VmbusError",
    message: "it failed",
    code: "ERR_SOMETHING",
  });
});

test("what cannot be copied fails its call, in either direction, and an unknown name too", async () => {
  const { near, run } = connect();
  const back = near.call("unclonable", undefined).catch((error: unknown) => error as Error);
  await expect(near.call("later", (() => undefined) as never)).rejects.toThrow(
    /could not be cloned/,
  );
  const unknown = near.call("nothing" as never, undefined as never).catch(String);
  await run();
  expect((await back) as Error).toMatchObject({ name: "DataCloneError" });
  expect(await unknown).toContain("there is no procedure nothing");
});

test("a closed line fails what waits and what follows, and hears nothing more", async () => {
  const { near, release, heard, far, run } = connect();
  const waiting = near.call("later", "never").catch(String);
  await run();
  near.close(new Error("the CPU is gone"));
  near.close(new Error("twice"));
  expect(await waiting).toBe("Error: the CPU is gone");
  await expect(near.call("add", [1, 2])).rejects.toThrow("the CPU is gone");
  release[0]!();
  void far.call("heard", "too late");
  await run();
  expect(heard).toEqual([]);
});
