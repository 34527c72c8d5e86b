import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  CONTROL_PROTOCOL,
  ControlDispatcher,
  controlErrorNumbers,
  controlMethods,
  type ControlAnswerCode,
} from "../src/control/index.js";
import { LineSplitter } from "../src/control/line-splitter.js";
import { namedMachine } from "./control-rig.js";
import { Machine, RELID, disk } from "./scenario-machine.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

async function answer(line: string | Uint8Array, guest?: Machine): Promise<unknown> {
  const dispatcher = new ControlDispatcher(namedMachine(guest));
  const text = await dispatcher.answer(typeof line === "string" ? bytes(line) : line);
  return text === undefined ? undefined : JSON.parse(text);
}

/** An error as it is answered, whatever its words. */
const refused = (id: unknown, code: ControlAnswerCode): object => ({
  jsonrpc: "2.0",
  id,
  error: { code: controlErrorNumbers[code], message: expect.any(String) as string, data: { code } },
});

const version = { protocol: 1, program: "test 1.2.3", methods: Object.keys(controlMethods) };
const accepted = (id: unknown): object => ({ jsonrpc: "2.0", id, result: version });

describe("a line", () => {
  test.each<[string, string | Uint8Array, unknown]>([
    ["a request", '{"jsonrpc":"2.0","id":1,"method":"version"}', accepted(1)],
    ["a text for an id", '{"jsonrpc":"2.0","id":"x","method":"version"}', accepted("x")],
    ["null for an id", '{"jsonrpc":"2.0","id":null,"method":"version"}', accepted(null)],
    ["a carriage return at its end", '{"jsonrpc":"2.0","id":1,"method":"version"}\r', accepted(1)],
    ["a notification", '{"jsonrpc":"2.0","method":"version"}', undefined],
    ["a notification of nothing", '{"jsonrpc":"2.0","method":"dance"}', undefined],
    ["nothing", "", undefined],
    ["white space", " \t\r", undefined],
    ["no JSON", '{"jsonrpc":"2.0",', refused(null, "ERR_CONTROL_PARSE")],
    ["brackets without end", "[".repeat(50_000), refused(null, "ERR_CONTROL_PARSE")],
    ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22), refused(null, "ERR_CONTROL_PARSE")],
    ["null", "null", refused(null, "ERR_CONTROL_REQUEST")],
    ["a number", "0", refused(null, "ERR_CONTROL_REQUEST")],
    ["a text", '"version"', refused(null, "ERR_CONTROL_REQUEST")],
    ["an empty object", "{}", refused(null, "ERR_CONTROL_REQUEST")],
    ["no version of JSON-RPC", '{"id":1,"method":"version"}', refused(1, "ERR_CONTROL_REQUEST")],
    [
      "JSON-RPC 1.0",
      '{"jsonrpc":"1.0","id":1,"method":"version"}',
      refused(1, "ERR_CONTROL_REQUEST"),
    ],
    ["no method", '{"jsonrpc":"2.0","id":1}', refused(1, "ERR_CONTROL_REQUEST")],
    [
      "a method that is no text",
      '{"jsonrpc":"2.0","id":1,"method":7}',
      refused(1, "ERR_CONTROL_REQUEST"),
    ],
    [
      "an id that is an object",
      '{"jsonrpc":"2.0","id":{},"method":"version"}',
      refused(null, "ERR_CONTROL_REQUEST"),
    ],
    [
      "an id that is true",
      '{"jsonrpc":"2.0","id":true,"method":"version"}',
      refused(null, "ERR_CONTROL_REQUEST"),
    ],
    [
      "params that are a text",
      '{"jsonrpc":"2.0","id":1,"method":"version","params":"1"}',
      refused(1, "ERR_CONTROL_REQUEST"),
    ],
    [
      "params that are null",
      '{"jsonrpc":"2.0","id":1,"method":"version","params":null}',
      refused(1, "ERR_CONTROL_REQUEST"),
    ],
    [
      "an answer",
      '{"jsonrpc":"2.0","id":1,"method":"version","result":1}',
      refused(1, "ERR_CONTROL_REQUEST"),
    ],
    [
      "an unknown method",
      '{"jsonrpc":"2.0","id":1,"method":"dance"}',
      refused(1, "ERR_CONTROL_METHOD"),
    ],
    [
      "a method of every object",
      '{"jsonrpc":"2.0","id":1,"method":"toString"}',
      refused(1, "ERR_CONTROL_METHOD"),
    ],
    [
      "params by position",
      '{"jsonrpc":"2.0","id":1,"method":"version","params":[1]}',
      refused(1, "ERR_CONTROL_PARAMS"),
    ],
    [
      "an unknown parameter",
      '{"jsonrpc":"2.0","id":1,"method":"version","params":{"x":1}}',
      refused(1, "ERR_CONTROL_PARAMS"),
    ],
    [
      "the parameter __proto__",
      '{"jsonrpc":"2.0","id":1,"method":"version","params":{"__proto__":{}}}',
      refused(1, "ERR_CONTROL_PARAMS"),
    ],
    [
      "a parameter of the wrong type",
      '{"jsonrpc":"2.0","id":1,"method":"version","params":{"protocol":"1"}}',
      refused(1, "ERR_CONTROL_PARAMS"),
    ],
    [
      "a parameter out of range",
      '{"jsonrpc":"2.0","id":1,"method":"violations","params":{"after":-1}}',
      refused(1, "ERR_CONTROL_PARAMS"),
    ],
    ["an empty batch", "[]", refused(null, "ERR_CONTROL_REQUEST")],
    ["a batch of one", '[{"jsonrpc":"2.0","id":1,"method":"version"}]', [accepted(1)]],
    ["a batch of notifications", '[{"jsonrpc":"2.0","method":"version"}]', undefined],
    [
      "a batch of all sorts",
      '[1,null,{"jsonrpc":"2.0","id":1,"method":"version"},{"jsonrpc":"2.0","method":"x"},[]]',
      [
        refused(null, "ERR_CONTROL_REQUEST"),
        refused(null, "ERR_CONTROL_REQUEST"),
        accepted(1),
        refused(null, "ERR_CONTROL_REQUEST"),
      ],
    ],
    [
      "a batch of too many",
      JSON.stringify(new Array(17).fill({ jsonrpc: "2.0", id: 1, method: "stats" })),
      refused(null, "ERR_CONTROL_REQUEST"),
    ],
  ])("with %s", async (_, line, expected) => {
    expect(await answer(line)).toEqual(expected);
  });

  test("of any bytes is answered by at most one line", async () => {
    const dispatcher = new ControlDispatcher(namedMachine());
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          fc.json().map(bytes),
          fc
            .record(
              {
                jsonrpc: fc.constantFrom("2.0", 2),
                id: fc.jsonValue(),
                method: fc.oneof(fc.constantFrom(...Object.keys(controlMethods)), fc.jsonValue()),
                params: fc.jsonValue(),
              },
              { requiredKeys: [] },
            )
            .map((request) => bytes(JSON.stringify(request))),
        ),
        async (line) => {
          const text = await dispatcher.answer(line);
          if (text === undefined) return;
          expect(text).not.toContain("\n");
          expect(JSON.parse(text)).toBeTypeOf("object");
        },
      ),
    );
  });
});

describe("a stream of lines", () => {
  const text = (line: Uint8Array): string => new TextDecoder().decode(line);

  test("comes apart at its newlines, however it is cut", () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: fc.constantFrom("a", "b", "\r", "{") })),
        fc.array(fc.nat(50)),
        (lines, cuts) => {
          const stream = bytes(lines.map((line) => `${line}\n`).join("") + "rest");
          const splitter = new LineSplitter(100);
          const found: string[] = [];
          let at = 0;
          for (const cut of [...cuts, stream.byteLength]) {
            found.push(...splitter.push(stream.slice(at, at + cut)).map(text));
            at += cut;
          }
          expect(found).toEqual(lines);
          expect(splitter.push(bytes("\n")).map(text)).toEqual(["rest"]);
        },
      ),
    );
  });

  test.each([
    ["at once", ["12345\n", "123456\n", "1\n"], ["12345"]],
    ["in pieces", ["12345", "\n123", "456\n1\n"], ["12345"]],
    ["without an end", ["123456"], []],
    ["behind a good one", ["1\n1234567\n2\n"], ["1"]],
  ])("ends with a line that is too long, %s", (_, chunks, lines) => {
    const splitter = new LineSplitter(5);
    expect(chunks.flatMap((chunk) => splitter.push(bytes(chunk)).map(text))).toEqual(lines);
    expect(splitter.isTooLong).toBe(true);
    expect(splitter.push(bytes("1\n"))).toEqual([]);
  });
});

describe("a method", () => {
  const call = async (method: string, params?: object, guest?: Machine): Promise<unknown> => {
    const line = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    return ((await answer(line, guest)) as { result: unknown }).result;
  };

  test("version takes clients of its own protocol, and no newer ones", async () => {
    expect(await call("version", { protocol: CONTROL_PROTOCOL })).toEqual(version);
    const newer = { protocol: CONTROL_PROTOCOL + 1 };
    const line = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "version", params: newer });
    expect(await answer(line)).toEqual(refused(1, "ERR_CONTROL_VERSION"));
    expect(JSON.stringify(await answer(line))).toContain(
      "speaks version 1 of the control protocol",
    );
  });

  test("get-vm describes the machine", async () => {
    const guest = new Machine();
    guest.timers.advance(1500);
    const summary = {
      name: "web",
      uptimeMs: 1500,
      processorCount: 1,
      memoryBytes: guest.memory.sizeBytes,
      busState: "disconnected",
      busVersion: null,
      violations: 0,
      program: "test 1.2.3",
      processId: 42,
    };
    expect(await call("get-vm", {}, guest)).toEqual(summary);
    guest.connect();
    guest.partition.server.violations.record("rule", "detail", 1, 3);
    expect(await call("get-vm", {}, guest)).toEqual({
      ...summary,
      busState: "connected",
      busVersion: "5.3",
      violations: 3,
    });
  });

  test("stats joins what the server and the workers know of a channel", async () => {
    const faults = {
      faults: [{ kind: "refused-version", version: 0x0006_0000, count: 1 }] as const,
    };
    const guest = new Machine({ faults });
    const closed = {
      relid: null,
      device: "SCSI",
      classId: disk.classId,
      instanceId: disk.instanceId,
      subChannelIndex: 0,
      state: "client-released",
      targetVp: null,
      worker: null,
    };
    expect(await call("stats", {}, guest)).toMatchObject({
      bus: { version: null },
      channels: [closed],
    });
    const channel = guest.openFirst();
    channel.send(new Uint8Array(16));
    guest.partition.run();
    guest.partition.server.violations.record("rule", "detail");
    const stats = (await call("stats", {}, guest)) as { bus: object; channels: object[] };
    expect(stats).toMatchObject({
      name: "web",
      uptimeMs: 0,
      bus: { state: "connected", version: "5.3", backlog: 0 },
      faults: [{ kind: "refused-version", happened: 0 }],
      violations: { total: 1, rules: { rule: 1 } },
      controllers: [{ requests: 0, disks: [] }],
    });
    expect(stats.channels).toEqual([
      {
        ...closed,
        relid: RELID,
        state: "open",
        targetVp: 0,
        worker: 0,
        packetsIn: 1,
        packetsOut: 1,
        signalsSent: 1,
        spaceSignalsSent: 0,
        interrupts: 1,
        outgoingFull: 0,
      },
    ]);
  });

  test("violations gives those that follow", async () => {
    const guest = new Machine();
    const { violations } = guest.partition.server;
    violations.record("first", "of a channel", 7);
    guest.timers.advance(20);
    violations.record("second", "of none", undefined, 2);
    const second = { rule: "second", detail: "of none", relid: null, atMs: 20 };
    expect(await call("violations", {}, guest)).toEqual({
      rules: { first: 1, second: 2 },
      violations: [{ rule: "first", detail: "of a channel", relid: 7, atMs: 0 }, second],
      next: 2,
    });
    expect(await call("violations", { after: 1 }, guest)).toMatchObject({
      violations: [second],
      next: 2,
    });
    expect(await call("violations", { after: 2 }, guest)).toMatchObject({
      violations: [],
      next: 2,
    });
  });

  test("that fails is answered as the machine's failure", async () => {
    const machine = namedMachine();
    const dispatcher = new ControlDispatcher({
      ...machine,
      stats: () => Promise.reject(new Error("the disks are on fire")),
    });
    const text = await dispatcher.answer(bytes('{"jsonrpc":"2.0","id":1,"method":"stats"}'));
    expect(JSON.parse(text!)).toEqual(refused(1, "ERR_CONTROL_INTERNAL"));
    expect(text).toContain("on fire");
  });
});
