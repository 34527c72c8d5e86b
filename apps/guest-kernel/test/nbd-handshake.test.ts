import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Handshake, type ExportCatalog, type ExportDescription } from "../src/nbd/handshake.js";
import {
  big,
  clientFlags,
  contextOption,
  counted,
  infoOption,
  option,
  parseReplies,
  type WireReply,
} from "./nbd-wire.js";

const da0: ExportDescription = {
  name: "da0",
  description: "Msft Virtual Disk 1.0",
  sizeBytes: 0x12_3456_7000,
  flags: 0x0d6d,
  minimumBlockBytes: 512,
  preferredBlockBytes: 4096,
  maximumPayloadBytes: 1 << 25,
};
const da1: ExportDescription = { ...da0, name: "da1", sizeBytes: 512 };

const GREETING = "4e42444d41474943" + "49484156454f5054" + "0003";
/** Size and flags of da0 as the wire has them. */
const DA0_SIZE = "0000001234567000";

/** A server with two exports, and what it has sent. */
class Rig implements ExportCatalog {
  readonly sent: Buffer[] = [];
  readonly admitted: string[] = [];
  refusal: string | undefined;
  isShuttingDown = false;
  readonly handshake = new Handshake(this, (bytes) => this.sent.push(Buffer.from(bytes)));

  list(): readonly ExportDescription[] {
    return [da0, da1];
  }

  find(name: string): ExportDescription | undefined {
    return name === "" ? da0 : this.list().find((one) => one.name === name);
  }

  admit(name: string): string | undefined {
    if (this.refusal === undefined) this.admitted.push(name);
    return this.refusal;
  }

  /** All of it in one piece. @returns Bytes that were not consumed. */
  feed(...bytes: readonly Uint8Array[]): number {
    const whole = Buffer.concat(bytes);
    return whole.byteLength - this.handshake.read(whole, 0);
  }

  /** What was sent since the greeting. */
  get output(): Buffer {
    return Buffer.concat(this.sent.slice(1));
  }

  get replies(): WireReply[] {
    return parseReplies(this.output);
  }

  /** Types of the replies, in order. */
  get types(): string[] {
    return this.replies.map(({ type }) => type);
  }

  get state(): "open" | "closed" | "transmission" {
    if (this.handshake.isClosed) return "closed";
    return this.handshake.agreement === undefined ? "open" : "transmission";
  }
}

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

test("the greeting offers fixed newstyle", () => {
  expect(Buffer.concat(new Rig().sent).toString("hex")).toBe(GREETING);
});

describe("flags of the client", () => {
  test.each([
    [0, "open"],
    [1, "open"],
    [2, "open"],
    [3, "open"],
    [4, "closed"],
    [0x8000_0003, "closed"],
  ])("%i: %s", (flags, state) => {
    const rig = new Rig();
    rig.feed(clientFlags(flags));
    expect(rig.state).toBe(state);
  });
});

/** Each option, legal and not, in each state: without and with structured replies, and while the guest shuts down. */
describe("options", () => {
  const GO = infoOption(7, "da0");
  const broken = {
    "name longer than the data": option(7, big(4, 100), Buffer.from("da0"), big(2, 0)),
    "more requests of information than data": option(7, counted("da0"), big(2, 5), big(2, 3)),
    "bytes behind the requests of information": option(6, counted("da0"), big(2, 0), big(1, 0)),
    "no data at all": option(7),
  };
  const brokenContexts = {
    "no number of queries": option(10, counted("da0")),
    "fewer queries than announced": option(10, counted("da0"), big(4, 2), counted("base:")),
    "a query longer than the data": option(9, counted("da0"), big(4, 1), big(4, 99)),
    "bytes behind the queries": option(9, counted("da0"), big(4, 0), big(4, 0)),
  };
  // plain, structured, shutting down: the types of the replies, and the state at the end
  type Outcome = readonly [types: string, state: string];
  const open = (types: string): Outcome => [types, "open"];
  const down = open("shutdown");
  const table: [string, Buffer, Outcome, Outcome, Outcome][] = [
    ["ABORT", option(2), ["ack", "closed"], ["ack", "closed"], ["ack", "closed"]],
    [
      "ABORT with data",
      option(2, big(4, 1)),
      ["ack", "closed"],
      ["ack", "closed"],
      ["ack", "closed"],
    ],
    ["LIST", option(3), open("server server ack"), open("server server ack"), down],
    ["LIST with data", option(3, big(1, 0)), open("invalid"), open("invalid"), down],
    ["STARTTLS", option(5), open("unsupported"), open("unsupported"), down],
    ["PEEK_EXPORT, withdrawn", option(4), open("unsupported"), open("unsupported"), down],
    ["EXTENDED_HEADERS", option(11), open("unsupported"), open("unsupported"), down],
    [
      "an option of the future",
      option(0xffff_ffff, big(4, 0)),
      open("unsupported"),
      open("unsupported"),
      down,
    ],
    ["STRUCTURED_REPLY", option(8), open("ack"), open("ack"), down],
    ["STRUCTURED_REPLY with data", option(8, big(1, 0)), open("invalid"), open("invalid"), down],
    ["INFO", infoOption(6, "da1"), open("info info ack"), open("info info ack"), down],
    ["INFO of the default", infoOption(6, ""), open("info info ack"), open("info info ack"), down],
    ["INFO of nothing", infoOption(6, "da9"), open("unknown"), open("unknown"), down],
    ["GO", GO, ["info info ack", "transmission"], ["info info ack", "transmission"], down],
    ["GO to nothing", infoOption(7, "nobody"), open("unknown"), open("unknown"), down],
    [
      "GO to an endless name",
      infoOption(7, "a".repeat(5000)),
      open("unknown"),
      open("unknown"),
      down,
    ],
    [
      "EXPORT_NAME",
      option(1, Buffer.from("da0")),
      ["", "transmission"],
      ["", "transmission"],
      ["", "closed"],
    ],
    [
      "EXPORT_NAME of nothing",
      option(1, Buffer.from("da7")),
      ["", "closed"],
      ["", "closed"],
      ["", "closed"],
    ],
    ["LIST_META_CONTEXT, all", contextOption(9, "da0"), open("invalid"), open("context ack"), down],
    [
      "LIST_META_CONTEXT, namespace",
      contextOption(9, "da0", "base:"),
      open("invalid"),
      open("context ack"),
      down,
    ],
    [
      "LIST_META_CONTEXT, foreign",
      contextOption(9, "da0", "qemu:"),
      open("invalid"),
      open("ack"),
      down,
    ],
    [
      "LIST_META_CONTEXT of nothing",
      contextOption(9, "da9"),
      open("invalid"),
      open("unknown"),
      down,
    ],
    [
      "SET_META_CONTEXT",
      contextOption(10, "da0", "base:allocation"),
      open("invalid"),
      open("context ack"),
      down,
    ],
    ["SET_META_CONTEXT, none", contextOption(10, "da0"), open("invalid"), open("ack"), down],
    [
      "SET_META_CONTEXT, namespace",
      contextOption(10, "da0", "base:"),
      open("invalid"),
      open("ack"),
      down,
    ],
    [
      "SET_META_CONTEXT, several",
      contextOption(10, "", "x:y", "base:allocation", "base:allocation"),
      open("invalid"),
      open("context ack"),
      down,
    ],
    ...Object.entries(broken).map(([name, bytes]): [string, Buffer, Outcome, Outcome, Outcome] => [
      `INFO or GO with ${name}`,
      bytes,
      open("invalid"),
      open("invalid"),
      down,
    ]),
    ...Object.entries(brokenContexts).map(
      ([name, bytes]): [string, Buffer, Outcome, Outcome, Outcome] => [
        `META_CONTEXT with ${name}`,
        bytes,
        open("invalid"),
        open("invalid"),
        down,
      ],
    ),
    [
      "an option of 64 KiB",
      option(99, Buffer.alloc(65536)),
      open("unsupported"),
      open("unsupported"),
      down,
    ],
    [
      "an option of more",
      option(3, Buffer.alloc(65537)),
      ["", "closed"],
      ["", "closed"],
      ["", "closed"],
    ],
    [
      "another magic",
      Buffer.from("IHAVEOPS0000000000000000"),
      ["", "closed"],
      ["", "closed"],
      ["", "closed"],
    ],
  ];
  const strip = (rig: Rig, first: number): [string, string] => {
    const raw = rig.sent.slice(first);
    // The answer to EXPORT_NAME is no reply to an option.
    const isBare = raw.length === 1 && raw[0]!.byteLength === 10;
    const types = isBare ? [] : parseReplies(Buffer.concat(raw)).map(({ type }) => type);
    return [types.join(" "), rig.state];
  };

  test.each(table)("%s", (_name, bytes, plain, structured, shutdown) => {
    const first = new Rig();
    first.feed(clientFlags(), bytes);
    expect(strip(first, 1)).toEqual(plain);

    const second = new Rig();
    second.feed(clientFlags(), option(8), bytes);
    expect(strip(second, 2)).toEqual(structured);

    const third = new Rig();
    third.isShuttingDown = true;
    third.feed(clientFlags(), bytes);
    expect(strip(third, 1)).toEqual(shutdown);
    expect(third.admitted).toEqual([]);
  });

  test("an option after the end is not looked at", () => {
    const rig = new Rig();
    expect(rig.feed(clientFlags(), option(2), option(3))).toBe(16);
    expect(rig.types).toEqual(["ack"]);
  });
});

describe("what the replies say", () => {
  test("LIST names the exports and describes them", () => {
    const rig = new Rig();
    rig.feed(clientFlags(), option(3));
    const [first, second, last] = rig.replies;
    expect(first!.data).toEqual(Buffer.concat([counted("da0"), Buffer.from(da0.description)]));
    expect(text(second!.data.subarray(4, 7))).toBe("da1");
    expect(last).toEqual({ option: 3, type: "ack", data: Buffer.alloc(0) });
  });

  test("INFO has size, flags and block sizes, and name and description when asked for", () => {
    const rig = new Rig();
    rig.feed(clientFlags(), infoOption(6, "", 3, 2, 1, 77));
    expect(rig.replies.map(({ type, data }) => `${type} ${data.toString("hex")}`)).toEqual([
      `info 0000${DA0_SIZE}0d6d`,
      "info 0003000002000000100002000000",
      `info 0001${Buffer.from("da0").toString("hex")}`,
      `info 0002${Buffer.from(da0.description).toString("hex")}`,
      "ack ",
    ]);
  });

  test("DF is offered once structured replies are agreed on", () => {
    const rig = new Rig();
    rig.feed(clientFlags(), option(8), infoOption(7, "da0"));
    expect(rig.replies[1]!.data.toString("hex")).toBe(`0000${DA0_SIZE}0ded`);
    expect(rig.handshake.agreement).toEqual({
      export: da0,
      structuredReplies: true,
      allocationContext: false,
    });
  });

  test.each([
    [3, 10],
    [1, 134],
  ])("EXPORT_NAME with client flags %i is answered with %i bytes", (flags, length) => {
    const rig = new Rig();
    rig.feed(clientFlags(flags), option(1));
    expect(rig.output.toString("hex")).toBe(`${DA0_SIZE}0d6d`.padEnd(length * 2, "0"));
    expect(rig.admitted).toEqual(["da0"]);
  });

  test("the context is told with a number of its own when it is selected", () => {
    const rig = new Rig();
    rig.feed(clientFlags(), option(8));
    rig.feed(contextOption(9, "da0"), contextOption(10, "da0", "base:allocation"));
    const contexts = rig.replies.filter(({ type }) => type === "context");
    expect(contexts.map(({ data }) => [data.readUInt32BE(0), text(data.subarray(4))])).toEqual([
      [0, "base:allocation"],
      [1, "base:allocation"],
    ]);
  });

  test("errors say why", () => {
    const rig = new Rig();
    rig.feed(clientFlags(), option(5), infoOption(6, "da9"));
    expect(rig.replies.map(({ data }) => text(data))).toEqual([
      "there is no TLS here",
      "there is no such export",
    ]);
  });
});

describe("the context that was selected last counts", () => {
  const select = contextOption(10, "da0", "base:allocation");
  test.each<[string, Buffer[], string, boolean]>([
    ["selected", [select], "da0", true],
    ["selected under the default's name", [contextOption(10, "", "base:allocation")], "da0", true],
    ["of another export", [contextOption(10, "da1", "base:allocation")], "da0", false],
    ["selected and dropped again", [select, contextOption(10, "da0")], "da0", false],
    ["dropped by a broken option", [select, option(10, counted("da0"))], "da0", false],
    ["listed only", [contextOption(9, "da0")], "da0", false],
    ["selected, then listed", [select, contextOption(9, "da0")], "", true],
  ])("%s", (_name, options, entered, allocationContext) => {
    const rig = new Rig();
    rig.feed(clientFlags(), option(8), ...options, infoOption(7, entered));
    expect(rig.handshake.agreement).toMatchObject({ allocationContext });
  });
});

describe("a client that cannot be let in", () => {
  test("hears why and may try another export", () => {
    const rig = new Rig();
    rig.refusal = "it is full";
    rig.feed(clientFlags(), infoOption(7, "da0"));
    expect(rig.replies.map(({ type, data }) => [type, text(data)])).toEqual([
      ["policy", "it is full"],
    ]);
    expect(rig.state).toBe("open");
    rig.refusal = undefined;
    rig.feed(infoOption(7, "da1"));
    expect(rig.handshake.agreement).toMatchObject({ export: da1 });
  });

  test("is cut off where there is no way to say so", () => {
    const rig = new Rig();
    rig.refusal = "it is full";
    rig.feed(clientFlags(), option(1, Buffer.from("da0")));
    expect(rig.output.byteLength).toBe(0);
    expect(rig.state).toBe("closed");
  });

  test("asking for information lets nobody in", () => {
    const rig = new Rig();
    rig.feed(clientFlags(), infoOption(6, "da0"));
    expect(rig.admitted).toEqual([]);
  });
});

test("bytes behind the last option are left for the requests", () => {
  const rig = new Rig();
  expect(rig.feed(clientFlags(), infoOption(7, "da0"), Buffer.alloc(28))).toBe(28);
});

const piece = fc.oneof(
  fc.constantFrom(
    option(8),
    option(3),
    option(2),
    infoOption(6, "da0", 1, 2, 3),
    infoOption(7, "da1"),
    infoOption(7, "da9"),
    contextOption(9, "", "base:"),
    contextOption(10, "da0", "base:allocation"),
    option(1, Buffer.from("da0")),
  ),
  fc
    .record({
      type: fc.oneof(fc.nat(12), fc.nat()),
      data: fc.uint8Array({ maxLength: 60 }),
    })
    .map(({ type, data }) => option(type, data)),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
);

test("whatever comes, in pieces of any size, is answered alike and in whole replies", () => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(
      fc.array(piece, { maxLength: 12 }),
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
      fc.option(fc.record({ at: fc.nat(400), value: fc.nat(255) })),
      (pieces, cuts, flip) => {
        const bytes = Buffer.concat([clientFlags(), ...pieces]);
        if (flip !== null && flip.at < bytes.byteLength) bytes[flip.at] = flip.value;
        const whole = new Rig();
        const rest = whole.feed(bytes);

        const cut = new Rig();
        let at = 0;
        for (let index = 0; at < bytes.byteLength && cut.state === "open"; index++) {
          const end = at + cuts[index % cuts.length]!;
          const part = bytes.subarray(at, end);
          at += cut.handshake.read(part, 0);
        }
        expect(cut.output).toEqual(whole.output);
        expect(cut.handshake.agreement).toEqual(whole.handshake.agreement);
        expect([cut.state, bytes.byteLength - at]).toEqual([whole.state, rest]);
        if (whole.state === "open") expect(rest).toBe(0);
        const last = whole.sent.at(-1)!;
        const isBare = whole.sent.length > 1 && (last.byteLength === 10 || last.byteLength === 134);
        const replies = whole.sent.slice(1, isBare ? -1 : undefined);
        for (const { type } of parseReplies(Buffer.concat(replies))) seen.add(type);
        seen.add(whole.state);
      },
    ),
    { numRuns: 1000 },
  );
  for (const outcome of [
    "ack",
    "info",
    "context",
    "invalid",
    "unknown",
    "unsupported",
    "transmission",
    "closed",
  ])
    expect(seen).toContain(outcome);
});
