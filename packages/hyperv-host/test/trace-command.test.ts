import { spawnSync, type SpawnSyncReturns } from "node:child_process";
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, describe, expect, test, vi } from "vitest";
import { readTrace } from "@hyperv-is/hyperv-host/trace";
import { hypervHostCommand } from "../src/bin/hyperv-host-command.js";

const root = dirname(createRequire(import.meta.url).resolve("@hyperv-is/hyperv-host/package.json"));
const program = join(root, "dist", "bin", "hyperv-host.js");
const fixture = fileURLToPath(new URL("traces/guest-kernel-rescind.trace.gz", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "host-trace-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const plain = gunzipSync(readFileSync(fixture));
const { records } = readTrace(plain);

function file(name: string, bytes: Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}

const runProcess = (...args: string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [program, "trace", ...args], {
    encoding: "utf8",
    maxBuffer: 2 ** 26,
  });

/** Runs the command here, which takes much less than a process of its own. */
async function run(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const spies = [process.stdout, process.stderr].map((stream) => {
    let text = "";
    const spy = vi.spyOn(stream, "write").mockImplementation((chunk, written?: unknown) => {
      text += chunk as string;
      if (typeof written === "function") (written as () => void)();
      return true;
    });
    return { text: () => text, spy };
  });
  try {
    const status = await hypervHostCommand(["trace", ...args]);
    return { status, stdout: spies[0]!.text(), stderr: spies[1]!.text() };
  } finally {
    for (const { spy } of spies) spy.mockRestore();
  }
}

const linesOf = (text: string): string[] => text.split("\n").slice(0, -1);

describe("hyperv-host trace", () => {
  test("prints a line for each record, compressed or not", async () => {
    const { status, stdout, stderr } = await run(fixture);
    expect([status, stderr]).toEqual([0, ""]);
    const lines = linesOf(stdout);
    expect(lines).toHaveLength(records.length);
    expect(lines.every((line) => /^ *\d+\.\d{7} [-<>] /.test(line))).toBe(true);
    expect(lines.at(-1)).toContain("< vp0  bus          UNLOAD_RESPONSE");
    expect(stdout).toContain(" RESCIND_CHANNELOFFER sint=2 relid=10");
    expect((await run(file("plain.trace", plain))).stdout).toBe(stdout);
  });

  test("--json prints an object a line", async () => {
    const objects = linesOf((await run("--json", fixture)).stdout).map(
      (line) => JSON.parse(line) as Record<string, unknown>,
    );
    expect(objects).toHaveLength(records.length);
    expect(objects.find(({ name }) => name === "OPENCHANNEL")).toMatchObject({
      channel: 10,
      device: "scsi",
      direction: "guest-to-host",
      vp: 0,
      fields: { relid: 10, downstreamPageOffset: 64 },
    });
  });

  test("--channel prints what is about one channel", async () => {
    const all = linesOf((await run(fixture)).stdout);
    const ofDisk = linesOf((await run(fixture, "--channel", "10")).stdout);
    expect(ofDisk).toEqual(all.filter((line) => line.includes(" 10.scsi ")));
    // Messages that name only a GPADL among them.
    expect(ofDisk.some((line) => line.includes("GPADL_TORNDOWN"))).toBe(true);
    expect(linesOf((await run(fixture, "--channel", "9")).stdout)).toHaveLength(1);
  });

  test("decodes what is whole of a file that is cut off, and says where that ends", async () => {
    const { offset } = records.find((record) => record.offset > 5000)!;
    const { status, stdout, stderr } = await run(file("cut.trace", plain.subarray(0, offset + 10)));
    expect(status).toBe(1);
    expect(linesOf(stdout)).toHaveLength(records.filter((record) => record.offset < offset).length);
    expect(stderr).toMatch(new RegExp(`cut\\.trace: truncated at byte ${offset}: 10 bytes of`));
    // Of a compressed one what can be had, too.
    const half = readFileSync(fixture).subarray(0, 6000);
    const compressed = await run(file("half.trace.gz", half));
    expect(compressed.status).toBe(1);
    expect(linesOf(compressed.stdout).length).toBeGreaterThan(20);
    expect(compressed.stderr).toContain("truncated at byte ");
  });

  test.each([
    ["a foreign file", program, /hyperv-host\.js: this is no trace/],
    ["no file", join(directory, "none"), /none: ENOENT/],
    ["a directory", directory, /EISDIR/],
  ])("refuses %s", async (_, path, message) => {
    const { status, stdout, stderr } = await run(path);
    expect([status, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(message);
    expect(stderr).not.toContain("    at ");
  });

  test.each([
    ["no file at all", [], "trace: one FILE, please"],
    ["a channel that is no number", ["x", "--channel", "scsi"], "a relid is a number"],
    ["an unknown option", ["x", "--frob"], "--frob"],
  ])("%s is a mistake of usage", async (_, args, message) => {
    const { status, stderr } = await run(...args);
    expect(status).toBe(2);
    expect(stderr).toContain(message);
    expect(stderr).toContain("usage: hyperv-host");
  });

  test("is a command of the program", () => {
    const { status, stdout, stderr } = runProcess(fixture);
    expect([status, stderr]).toEqual([0, ""]);
    expect(linesOf(stdout)).toHaveLength(records.length);
    expect(runProcess()).toMatchObject({ status: 2, stdout: "" });
  });

  test("ends quietly when its reader does", () => {
    const { status, stdout, stderr } = spawnSync(
      "bash",
      [
        "-c",
        'set -o pipefail; "$0" "$1" trace --json "$2" | head -n 1',
        process.execPath,
        program,
        fixture,
      ],
      { encoding: "utf8" },
    );
    expect([status, stderr]).toEqual([0, ""]);
    expect(linesOf(stdout)).toHaveLength(1);
  });
});
