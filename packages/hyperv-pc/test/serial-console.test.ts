import { once } from "node:events";
import { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import fc from "fast-check";
import { PcError } from "../src/pc-error.js";
import { SerialConsole } from "../src/serial-console.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const off = new PcError("ERR_POWERED_OFF", "off");

function console(): { readonly serial: SerialConsole; readonly typed: string[] } {
  const typed: string[] = [];
  const serial = new SerialConsole((sent) => void typed.push(new TextDecoder().decode(sent)));
  return { serial, typed };
}

describe("the serial console", () => {
  test("finds a text that is there, and one that comes in pieces", async () => {
    const { serial } = console();
    serial.received(bytes("boot\nlogin: "));
    expect(await serial.waitFor("login: ")).toBe("boot\nlogin: ");
    const waiting = serial.waitFor(/\$ $/);
    serial.received(bytes("root\nguest"));
    serial.received(bytes("$ "));
    expect(await waiting).toBe("root\nguest$ ");
  });

  test("does not find the same text again, unless the finger goes back", async () => {
    const { serial } = console();
    serial.received(bytes("# ls\n# "));
    expect(await serial.waitFor("# ")).toBe("# ");
    expect(await serial.waitFor("# ")).toBe("ls\n# ");
    const third = serial.waitFor("# ");
    serial.received(bytes("pwd\n# "));
    expect(await third).toBe("pwd\n# ");
    serial.rewind();
    expect(await serial.waitFor("# ")).toBe("# ");
  });

  test("serves those who wait in their order", async () => {
    const { serial } = console();
    const both = Promise.all([serial.waitFor("b"), serial.waitFor("a")]);
    serial.received(bytes("aba"));
    expect(await both).toEqual(["ab", "a"]);
  });

  test("any text is found, however it is cut", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 }),
        fc.array(fc.integer({ min: 1, max: 5 })),
        async (text, cuts) => {
          const { serial } = console();
          const found = serial.waitFor(text);
          const all = bytes(text);
          let at = 0;
          for (const cut of [...cuts, all.byteLength]) {
            serial.received(all.slice(at, at + cut));
            at += cut;
          }
          expect(await found).toBe(text);
          expect(serial.transcript).toBe(text);
        },
      ),
    );
  });

  test("passes on what comes, until told not to, and what is typed", () => {
    const { serial, typed } = console();
    const seen: number[] = [];
    const end = serial.subscribe((piece) => seen.push(...piece));
    serial.received(new Uint8Array([1, 0xff]));
    end();
    serial.received(new Uint8Array([2]));
    expect(seen).toEqual([1, 0xff]);
    serial.write("ls\n");
    expect(typed).toEqual(["ls\n"]);
  });

  test("is a stream of bytes that ends with the machine", async () => {
    const { serial } = console();
    serial.received(bytes("before"));
    const stream = Readable.from(serial);
    serial.received(bytes("one "));
    const [first] = (await once(stream, "data")) as [Uint8Array];
    expect(new TextDecoder().decode(first)).toBe("one ");
    const rest: Uint8Array[] = [];
    stream.on("data", (piece: Uint8Array) => rest.push(piece));
    serial.received(bytes("two "));
    serial.received(bytes("three"));
    serial.closed(off);
    await once(stream, "end");
    expect(Buffer.concat(rest).toString()).toBe("two three");
    for await (const piece of serial) expect(piece).toBe("nothing more");
  });

  test("is left by a reader in the middle", async () => {
    const { serial } = console();
    const reader = serial[Symbol.asyncIterator]();
    const first = reader.next();
    serial.received(bytes("x"));
    expect(await first).toEqual({ done: false, value: bytes("x") });
    await reader.return?.();
    serial.received(bytes("y"));
    expect(await reader.next()).toEqual({ done: true, value: undefined });
  });

  test("ends for those who wait, and for those who come later", async () => {
    const { serial, typed } = console();
    const waiting = serial.waitFor("never");
    serial.received(bytes("there"));
    serial.closed(off);
    await expect(waiting).rejects.toBe(off);
    expect(await serial.waitFor("there")).toBe("there");
    await expect(serial.waitFor("there")).rejects.toBe(off);
    serial.write("x");
    expect(typed).toEqual([]);
  });

  test("goes on with what was written before", async () => {
    const { serial } = console();
    serial.restore("boot\n# ");
    expect(await serial.waitFor("# ")).toBe("boot\n# ");
    serial.received(bytes("more"));
    expect(serial.transcript).toBe("boot\n# more");
  });

  test("keeps the newest part of a long session", async () => {
    const { serial } = console();
    const line = bytes(`${"x".repeat(2 ** 20 - 1)}\n`);
    for (let number = 0; number < 20; number++) serial.received(line);
    serial.received(bytes("end"));
    expect(serial.transcript.length).toBeLessThanOrEqual(16 * 2 ** 20);
    expect(await serial.waitFor("end")).toMatch(/end$/);
  });
});
