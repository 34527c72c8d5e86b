import { spawn, spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { boot } from "@hyperv-is/guest-kernel";
import { TraceDecoder, readTrace } from "@hyperv-is/hyperv-host/trace";

const directory = mkdtempSync(join(tmpdir(), "guest-trace-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const root = dirname(
  createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
);
const program = join(root, "dist", "bin", "guest-kernel.js");

const run = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [program, "boot", ...args], { encoding: "utf8", input: "" });

test("a traced machine leaves everything that its threads exchanged, in order", async () => {
  const path = join(directory, "machine.trace");
  const machine = await boot({
    disks: [{ kind: "ram", sizeBytes: 2 ** 20, identity: new Uint8Array(16).fill(5) }],
    trace: { path, channels: ["scsi"], dataLimitBytes: 64 },
  });
  await machine.exec("dd if=/dev/random of=/dev/da0 bs=4k count=3; cat /dev/da0 | wc -c");
  const { controllers, messagesIn, messagesOut } = await machine.host.stats();
  await machine.shutdown();
  expect(machine.host.violations).toEqual([]);

  const { header, records, damage } = readTrace(readFileSync(path));
  expect(damage).toBeUndefined();
  expect(header).toMatchObject({ vps: 1, memoryBytes: 256n * 2n ** 20n, dataLimitBytes: 64 });
  const decoder = new TraceDecoder();
  const decoded = records.map((record) => decoder.decode(record));
  const count = (name: string): number => decoded.filter((one) => one.name === name).length;
  // What the machine counted before it went down, and the flush, close and farewell after that.
  expect(count("EXECUTE_SRB")).toBeGreaterThanOrEqual(controllers[0]!.requests);
  expect(count("COMPLETE_IO")).toBe(records.filter((one) => one.kind === "packet").length / 2);
  const messages = (kind: string): number => records.filter((one) => one.kind === kind).length;
  expect(messages("guest-message")).toBeGreaterThan(messagesIn);
  expect(messages("host-message")).toBeGreaterThan(messagesOut);
  expect(decoded.at(-1)?.name).toBe("UNLOAD_RESPONSE");
  expect(decoded.every(({ fields }) => fields["problem"] === undefined)).toBe(true);
  // Threads write one after the other; a channel is opened between the request and its result.
  const relid = decoded.find(({ name }) => name === "channel opened")?.relid;
  const opening = decoded.filter((one) => one.relid === relid).map(({ name }) => name);
  const at = opening.indexOf("OPENCHANNEL");
  expect(opening.slice(at, at + 3)).toEqual([
    ...["OPENCHANNEL", "channel opened", "OPENCHANNEL_RESULT"],
  ]);
});

describe("guest-kernel boot --trace", () => {
  test("records what --trace-channels and --trace-data say", () => {
    const path = join(directory, "none.trace");
    const { status, stderr } = run("--trace", path, "--trace-channels", "none", "--exec", "true");
    expect([status, stderr]).toEqual([0, ""]);
    const { records, header } = readTrace(readFileSync(path));
    expect(records.filter(({ kind }) => kind === "packet")).toEqual([]);
    expect(records.length).toBeGreaterThan(30);
    expect(header.dataLimitBytes).toBe(0);
  });

  test.each([
    [["--trace", "x", "--trace-channels", "disks"], '"disks" is no channel'],
    [["--trace", "x", "--trace-data", "all"], "a number of bytes, please"],
    [["--trace-channels", "scsi"], "say what --trace FILE records"],
  ])("%j is a mistake of usage", (args, message) => {
    const { status, stderr } = run(...args);
    expect(status).toBe(2);
    expect(stderr).toContain(message);
  });

  test("a file that cannot be made, or not be written, is named", () => {
    const none = run("--trace", join(directory, "no", "such.trace"), "--exec", "true");
    expect(none.status).toBe(1);
    expect(none.stderr).toMatch(/^guest-kernel: .*such\.trace: ENOENT/);
    const full = run("--trace", "/dev/full", "--exec", "echo done");
    expect([full.status, full.stdout]).toEqual([1, "done\n"]);
    expect(full.stderr).toMatch(/^guest-kernel: \/dev\/full: ENOSPC/);
  });

  test("a machine that is killed leaves a trace", async () => {
    const path = join(directory, "killed.trace");
    const guest = spawn(process.execPath, [
      ...[program, "boot", "--trace", path, "--exec", "cat /dev/zero"],
    ]);
    await new Promise<void>((resolve) => {
      guest.stdout.on("data", () => {
        if (existsSync(path) && statSync(path).size > 4096) resolve();
      });
    });
    guest.kill("SIGKILL");
    const { records } = readTrace(readFileSync(path));
    expect(records.length).toBeGreaterThan(20);
  });
});
