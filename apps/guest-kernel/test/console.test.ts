import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BytePipe, BrokenPipe, linesOf } from "../src/console/byte-pipe.js";
import { getopt } from "../src/console/command.js";
import { parseSize } from "../src/console/commands/dd.js";
import { humanSize } from "../src/console/commands/gpart.js";
import { parseLine } from "../src/console/shell.js";
import { junitReport } from "../src/bin/junit.js";
import type { BlockDevice, GuestBuffer } from "../src/kernel/block-device.js";
import { readPartitionTable } from "../src/kernel/partitions.js";

describe("command lines", () => {
  test("are lists of pipelines of words", () => {
    expect(parseLine("a 'b  c' | d; e && f || g # rest")).toEqual([
      { when: ";", pipeline: [["a", "b  c"], ["d"]] },
      { when: ";", pipeline: [["e"]] },
      { when: "&&", pipeline: [["f"]] },
      { when: "||", pipeline: [["g"]] },
    ]);
    expect(parseLine("  ")).toEqual([]);
    const quoted = `it\\'s "a 'b' \\"c" 'd "e' # isn't`;
    expect(parseLine(quoted)[0]!.pipeline).toEqual([["it's", `a 'b' "c`, 'd "e']]);
  });

  test.each(["| a", "a |", "a && ", "; a", "a > b", "a & b", "a 'b", 'a "b\\"', "a \\"])(
    "%s is refused",
    (line) => {
      expect(() => parseLine(line)).toThrow(/Syntax error|not supported/);
    },
  );

  test("never fail but with a message of the shell", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (line) => {
        try {
          for (const { pipeline } of parseLine(line)) expect(pipeline.length).toBeGreaterThan(0);
        } catch (error) {
          expect((error as Error).name).toBe("CommandError");
        }
      }),
    );
  });
});

describe("a pipe", () => {
  test("keeps bytes and order, one chunk at a time", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 50 })), async (chunks) => {
        const pipe = new BytePipe();
        const writing = (async () => {
          for (const chunk of chunks) await pipe.write(chunk);
          pipe.end();
        })();
        const read: number[] = [];
        for await (const chunk of pipe) read.push(...chunk);
        await writing;
        expect(read).toEqual(chunks.flatMap((chunk) => [...chunk]));
      }),
    );
  });

  test("breaks for the writer when the reader has ended", async () => {
    const pipe = new BytePipe();
    await pipe.write(Uint8Array.of(1));
    for await (const chunk of pipe) {
      expect(chunk).toEqual(Uint8Array.of(1));
      break;
    }
    await expect(pipe.write(Uint8Array.of(2))).rejects.toThrow(BrokenPipe);
  });

  test("is split into lines wherever the chunks end", async () => {
    const pipe = new BytePipe();
    void (async () => {
      for (const text of ["one\ntw", "o\n", "\nlä".slice(0, 3), "st"])
        await pipe.write(new TextEncoder().encode(text));
      pipe.end();
    })();
    const lines: string[] = [];
    for await (const line of linesOf(pipe)) lines.push(line);
    expect(lines).toEqual(["one", "two", "", "läst"]);
  });
});

test("options are taken as getopt takes them", () => {
  const { flags, values, operands } = getopt(["-vn", "name", "-x5", "--", "-v"], "vn:x:");
  expect([[...flags], [...values], operands]).toEqual([
    ["v"],
    [
      ["n", "name"],
      ["x", "5"],
    ],
    ["-v"],
  ]);
  expect(() => getopt(["-q"], "v")).toThrow("illegal option -- q");
  expect(() => getopt(["-n"], "n:")).toThrow("option requires an argument -- n");
});

test("sizes are read and printed as FreeBSD does", () => {
  expect(["512", "4k", "1m", "2b", "2x512"].map((text) => parseSize("bs", text))).toEqual([
    512, 4096, 1048576, 1024, 1024,
  ]);
  expect(() => parseSize("bs", "ten")).toThrow("illegal numeric value");
  expect([512 * 1024, 2 ** 31, 40 * 2 ** 30, 492 * 1024, 0].map(humanSize)).toEqual([
    "512K",
    "2.0G",
    "40G",
    "492K",
    "0B",
  ]);
});

test("a report is well-formed whatever the commands print", () => {
  const printed = { stdout: "\u0000\u001b]<x>", stderr: "bad & worse" };
  const lists = [{ text: 'echo <&\u0007">', status: 1, seconds: 0.5, ...printed }];
  const xml = junitReport(lists, [], true);
  expect(xml).toContain('name="echo &lt;&amp;&quot;&gt;"');
  expect(xml).toContain("exit status 1\nbad &amp; worse");
  expect(xml).toContain("<system-out>]&lt;x&gt;</system-out>");
  expect(xml).toContain('tests="2" failures="1"');
});

/** A disk in an array, which is guest memory at the same time. */
function diskOf(content: Uint8Array): [BlockDevice, (lengthBytes: number) => GuestBuffer] {
  const memory = new Uint8Array(2 ** 20);
  const device: BlockDevice = {
    name: "da0",
    sizeBytes: content.byteLength,
    blockBytes: 512,
    physicalBlockBytes: 512,
    readOnly: false,
    maxTransferBytes: 2 ** 18,
    read: (position, address, length) => {
      memory.set(content.subarray(position, position + length), address);
      return Promise.resolve();
    },
    write: () => Promise.reject(new Error("not here")),
    flush: () => Promise.resolve(),
    unmap: () => Promise.resolve(),
  };
  const allocate = (lengthBytes: number): GuestBuffer => ({
    address: 4096,
    bytes: memory.subarray(4096, 4096 + lengthBytes),
    free: () => undefined,
  });
  return [device, allocate];
}

describe("partition tables", () => {
  const mbr = (): Uint8Array => {
    const content = new Uint8Array(2 ** 20);
    const view = new DataView(content.buffer);
    content[446 + 4] = 0xa5;
    view.setUint32(446 + 8, 64, true);
    view.setUint32(446 + 12, 1000, true);
    view.setUint16(510, 0xaa55, true);
    return content;
  };

  test("of an MBR", async () => {
    expect(await readPartitionTable(...diskOf(mbr()))).toEqual({
      scheme: "MBR",
      firstBlock: 1,
      lastBlock: 2047,
      corrupt: false,
      partitions: [{ index: 1, firstBlock: 64, blocks: 1000, type: "freebsd", label: "" }],
    });
  });

  test("that are not there, or leave the disk, are none", async () => {
    expect(await readPartitionTable(...diskOf(new Uint8Array(2 ** 20)))).toBeUndefined();
    const outside = mbr();
    new DataView(outside.buffer).setUint32(446 + 12, 100_000, true);
    expect(await readPartitionTable(...diskOf(outside))).toBeUndefined();
    const protective = mbr();
    protective[446 + 4] = 0xee;
    expect(await readPartitionTable(...diskOf(protective))).toBeUndefined();
  });

  test("never throw, whatever a disk holds", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 2048, maxLength: 2048 }), async (bytes) => {
        const content = mbr();
        content[446 + 4] = 0xee;
        content.set(bytes, 512);
        content.set(new TextEncoder().encode("EFI PART"), 512);
        await readPartitionTable(...diskOf(content));
      }),
    );
  });
});
