import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ControlClient, ControlServer } from "../src/node/control.js";
import { RawClient, describeMachine } from "./control-rig.js";

const CLIENT_LIMIT = 32;
const LINE_LIMIT_BYTES = 65_536;

let directory = "";
let path = "";
let server: ControlServer;
/** Calls of the machine's `stats`. */
let asked = 0;
const clients: { destroy(): void }[] = [];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "control-"));
  path = join(directory, "web.sock");
  asked = 0;
  const machine = describeMachine();
  server = await ControlServer.listen(path, {
    ...machine,
    stats: () => {
      asked++;
      return machine.stats();
    },
  });
});
afterEach(() => {
  for (const client of clients.splice(0)) client.destroy();
  server.close();
  rmSync(directory, { recursive: true });
});

async function raw(): Promise<RawClient> {
  const client = await RawClient.connect(path);
  clients.push(client.socket);
  return client;
}

/** Somebody who behaves is served. */
async function serves(): Promise<boolean> {
  using client = await ControlClient.connect(path);
  return (await client.call("get-vm", {})).name === "web";
}

const code = (name: string): object => ({ error: { data: { code: name } } });

describe("a client", () => {
  test("gets an answer to each of its requests, in their order", async () => {
    const client = await raw();
    for (let id = 1; id <= 100; id++) client.request(id, id % 2 === 0 ? "stats" : "version");
    for (let id = 1; id <= 100; id++) expect(await client.answer()).toMatchObject({ id });
  });

  test("may send its line in pieces, and nothing more after it", async () => {
    const client = await raw();
    for (const piece of ['{"jsonrpc":', '"2.0","id":5,"met', 'hod":"get-vm"}', "\n"])
      await new Promise<void>((resolve) => client.socket.write(piece, () => resolve()));
    expect(await client.answer()).toMatchObject({ id: 5, result: { name: "web" } });
    for (let id = 1; id <= 50; id++) client.request(id, "stats");
    client.socket.end();
    for (let id = 1; id <= 50; id++) expect(await client.answer()).toMatchObject({ id });
    expect(await client.line()).toBeUndefined();
    await client.closed;
  });

  test("that talks nonsense is told so, and may go on", async () => {
    const client = await raw();
    client.send("hello\n\n\u0000\n");
    expect(await client.answer()).toMatchObject(code("ERR_CONTROL_PARSE"));
    expect(await client.answer()).toMatchObject(code("ERR_CONTROL_PARSE"));
    client.request(1, "version");
    expect(await client.answer()).toMatchObject({ id: 1, result: { protocol: 1 } });
  });

  test("whose line is too long is told so, and let go", async () => {
    const client = await raw();
    client.request(1, "version");
    client.send(`"${"x".repeat(LINE_LIMIT_BYTES)}`);
    expect(await client.answer()).toMatchObject({ id: 1 });
    expect(await client.answer()).toMatchObject(code("ERR_CONTROL_REQUEST"));
    client.send("x".repeat(1 << 22));
    await client.closed;
    expect(await serves()).toBe(true);
  });

  test("whose line is as long as it may be is served", async () => {
    const client = await raw();
    const request = '{"jsonrpc":"2.0","id":1,"method":"version"}';
    client.send(`${request.padEnd(LINE_LIMIT_BYTES)}\n`);
    expect(await client.answer()).toMatchObject({ id: 1, result: { protocol: 1 } });
  });

  test("that reads nothing gets nothing more, and the others do", async () => {
    const total = 1500;
    const client = await raw();
    client.socket.pause();
    for (let id = 1; id <= total; id++) client.request(id, "stats");
    using other = await ControlClient.connect(path);
    let seen = -1;
    for (let same = 0; same < 20; same++) {
      if (seen !== asked) same = 0;
      seen = asked;
      expect(await other.call("get-vm", {})).toMatchObject({ name: "web" });
    }
    expect(asked).toBeLessThan(total / 2);
    client.socket.resume();
    for (let id = 1; id <= total; id++) expect(await client.answer()).toMatchObject({ id });
    expect(asked).toBe(total);
  });

  test("with many requests leaves the machine its turns", async () => {
    const total = 500;
    const client = await raw();
    let turns = 0;
    let isDone = false;
    const turn = (): void => {
      turns++;
      if (!isDone) setImmediate(turn);
    };
    const request = '{"jsonrpc":"2.0","id":1,"method":"dance"}\n';
    client.send(request.repeat(total));
    setImmediate(turn);
    for (let answered = 0; answered < total; answered++) await client.answer();
    isDone = true;
    expect(turns).toBeGreaterThanOrEqual(total);
  });

  test("that goes away in the middle leaves nothing behind", async () => {
    for (let round = 0; round < CLIENT_LIMIT * 2; round++) {
      const client = await RawClient.connect(path);
      for (let id = 1; id <= 100; id++) client.request(id, "stats");
      if (round % 2 === 0) await client.line();
      client.socket.destroy();
      await client.closed;
    }
    expect(await serves()).toBe(true);
  });

  test("too many are told so, until others go", async () => {
    const many = await Promise.all(Array.from({ length: CLIENT_LIMIT }, () => raw()));
    await expect(ControlClient.connect(path)).rejects.toMatchObject({
      code: "ERR_CONTROL_CLIENTS",
      message: `the machine has ${CLIENT_LIMIT} clients already`,
    });
    const late = await raw();
    expect(await late.answer()).toMatchObject(code("ERR_CONTROL_CLIENTS"));
    await late.closed;
    for (const client of many) client.request(1, "version");
    for (const client of many) expect(await client.answer()).toMatchObject({ id: 1 });
    many[0]!.socket.end();
    await many[0]!.closed;
    expect(await serves()).toBe(true);
  });

  test("is let go when the machine ends", async () => {
    using client = await ControlClient.connect(path);
    const bystander = await raw();
    server.close();
    await bystander.closed;
    await client.closed;
    const gone = { code: "ERR_CONTROL_GONE" };
    await expect(client.call("stats", {})).rejects.toMatchObject(gone);
    await expect(ControlClient.connect(path)).rejects.toMatchObject(gone);
  });
});

describe("what a client finds", () => {
  /** Something that listens, and does as it likes with who comes. */
  async function listens(serve: (client: Socket) => void): Promise<string> {
    const other = join(directory, "other.sock");
    const listener = createServer((client) => {
      clients.push(client);
      client.on("error", () => undefined);
      serve(client);
    }).listen(other);
    await once(listener, "listening");
    clients.push({ destroy: () => listener.close() });
    return other;
  }
  const error = (number: number, data?: object): string =>
    `${JSON.stringify({ jsonrpc: "2.0", id: 1, error: { code: number, message: "no", data } })}\n`;

  test.each<[string, string, (client: Socket) => void]>([
    ["ERR_CONTROL_SILENT", "says nothing", () => undefined],
    [
      "ERR_CONTROL_SILENT",
      "answers what nobody asked",
      (client) => client.write('{"id":99,"result":1}\n'),
    ],
    ["ERR_CONTROL_GONE", "hangs up", (client) => client.destroy()],
    ["ERR_CONTROL_GONE", "hangs up in the middle", (client) => client.end('{"id":1,')],
    ["ERR_CONTROL_ANSWER", "talks nonsense", (client) => client.write("220 mail.example ESMTP\n")],
    ["ERR_CONTROL_ANSWER", "talks JSON nonsense", (client) => client.write("null\n")],
    [
      "ERR_CONTROL_ANSWER",
      "answers nothing",
      (client) => client.write('{"jsonrpc":"2.0","id":1}\n'),
    ],
    [
      "ERR_CONTROL_ANSWER",
      "never ends its line",
      (client) => client.write("x".repeat((1 << 24) + 1)),
    ],
    ["ERR_CONTROL_ANSWER", "has errors of its own", (client) => client.write(error(-32050))],
    [
      "ERR_CONTROL_ANSWER",
      "has codes of its own",
      (client) => client.write(error(1, { code: "EVIL" })),
    ],
    [
      "ERR_CONTROL_VERSION",
      "speaks an older protocol",
      (client) => client.write(error(-32000, { code: "ERR_CONTROL_VERSION" })),
    ],
  ])("%s: what %s", async (expected, _, serve) => {
    const other = await listens(serve);
    const timeoutMs = expected === "ERR_CONTROL_SILENT" ? 50 : 20_000;
    await expect(ControlClient.connect(other, timeoutMs)).rejects.toMatchObject({ code: expected });
  });
});
