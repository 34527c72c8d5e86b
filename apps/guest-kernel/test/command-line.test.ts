import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ExecutedList } from "@hyperv-is/guest-kernel";
import { checkImageFile, createImageFile, openImageFile } from "@hyperv-is/vhd/node";
import { bootCommand } from "../src/bin/boot-command.js";
import { runCommand, type CommandRun } from "./command-run.js";
import { NbdClient } from "./nbd-client.js";

const root = dirname(
  createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
);
const program = join(root, "dist", "bin", "guest-kernel.js");
const directory = mkdtempSync(join(tmpdir(), "guest-cli-"));
const disk = join(directory, "disk.vhdx");
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeAll(async () => {
  (await createImageFile(disk, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 })).close();
});

const runProcess = (...args: string[]): CommandRun =>
  spawnSync(process.execPath, [program, ...args], { encoding: "utf8", input: "" });

describe("a wrong command line", () => {
  const cases: [string[], string][] = [
    [["boot", "--cpus", "0"], "--cpus 0: write a number from 1 to 64"],
    [["boot", "--cpus", "65"], "--cpus 65: write a number from 1 to 64"],
    [["boot", "--cpus", "two"], "--cpus two: write a number"],
    [["boot", "--cpus="], "--cpus: write a number"],
    [["boot", "--set", "hw.ncpu"], "--set hw.ncpu: write it as NAME=VALUE"],
    [["boot", "--set", "hw.nope=1"], "there is no tunable hw.nope; there are hw.vmbus."],
    [
      ["boot", "--set", "hw.vmbus.signal_optimization=maybe"],
      "hw.vmbus.signal_optimization=maybe: a whole number from 0 to 1",
    ],
    [
      ["boot", "--sub-channels", "many"],
      "--sub-channels many: a number up to 1023, or one-per-cpu",
    ],
    [
      ["boot", "--memory", "1M"],
      "1048576 bytes of memory: it must be whole MiB, from 32M to 4096M",
    ],
    [["boot", "--disk", ",ro"], "--disk ,ro: the file's name is missing"],
    [["boot", "--disk", "a.vhdx,controller=7"], "controllers are 0 to 3"],
    [["boot", "--ceiling", "9.9"], "--ceiling 9.9: versions are"],
    [["boot", "--report", "junit=/nowhere/x.xml"], "--report: /nowhere"],
    [["boot", "--memory", "lots"], "write it as 256M or 1G"],
    [["boot", "--report", "x.xml"], "write it as junit=FILE"],
    [["boot", "--control", "a b"], "'a b' is no name for a machine"],
    [["boot", "--control", "/nowhere/web.sock"], "/nowhere"],
    [["boot", "--violations", "ignore"], 'only "fail" is known'],
    [["boot", "--nbd", "da0"], "write it as da0=unix:PATH"],
    [["boot", "--nbd", "da0=0.0.0.0:10809"], "on loopback addresses only"],
    [["boot", "--pin", "vcpu0"], "--pin vcpu0: write it as THREAD=CPU[,THREAD=CPU...]"],
    [["boot", "--pin", "disks=last"], "--pin disks=last: write it as"],
    [["boot", "--pin", "vcpu0=0,disks=0,vcpu0=1"], "vcpu0 is pinned twice"],
    [["boot", "--pin", "vcpu0=0", "--pin", "vcpu0=1"], "vcpu0 is pinned twice"],
    [["boot", "--pin", "vcpu1=0"], "there is no thread vcpu1 to be pinned"],
    [["boot", "--frob"], "Unknown option '--frob'"],
    [["boot", "freebsd.vhdx"], "guest-kernel boot --disk freebsd.vhdx"],
    [["boot", "freebsd.vhdx"], "hyperv-pc boot --boot-disk freebsd.vhdx"],
    [["boot", "--faults", "/nowhere.json"], "/nowhere.json: ENOENT"],
  ];
  test.each(cases)("says what to write: %j", async ([, ...args], message) => {
    await expect(bootCommand(args)).rejects.toThrow(message);
  });

  test.each([
    [["frob"], "unknown command 'frob'; 'guest-kernel --help' lists them"],
    [["boot", "--cpus", "0"], "--cpus 0: write a number from 1 to 64"],
    [["boot", "--memory", "1M"], "1048576 bytes of memory: it must be whole MiB"],
    [["boot", "--control", "a b"], "'a b' is no name for a machine"],
    [["boot", "--pin", "vcpu0=8191"], "vcpu0 cannot be pinned to CPU 8191"],
    [["boot", "freebsd.vhdx"], "hyperv-pc boot --boot-disk freebsd.vhdx"],
  ])("ends with status 2 and nothing on standard output: %j", async (args, message) => {
    const { status, stdout, stderr } = await runCommand(...args);
    expect(status).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(message);
  });

  test("each mistake of a fault plan is named with its place", async () => {
    const plan = join(directory, "plan.json");
    writeFileSync(plan, '{ "faults": [{ "kind": "late-completion" }, { "kind": "gremlins" }] }');
    const { status, stderr } = await runCommand("boot", "--faults", plan);
    expect(status).toBe(2);
    expect(stderr).toContain("faults[0].delayMs: is missing");
    expect(stderr).toContain("faults[1].kind: must be one of late-completion");
  });
});

test("as a program it has these outputs and exit statuses", () => {
  expect(runProcess("--version")).toMatchObject({ status: 0, stderr: "" });
  expect(runProcess("frob")).toMatchObject({
    status: 2,
    stdout: "",
    stderr: "guest-kernel: unknown command 'frob'; 'guest-kernel --help' lists them\n",
  });
  const line = "echo one; false";
  expect(runProcess("boot", "--disk", `${disk},ro`, "--exec", line)).toMatchObject({
    status: 1,
    stdout: "one\n",
  });
});

test("help and version go to standard output", async () => {
  expect((await runCommand("--help")).stdout).toContain("usage: guest-kernel boot [options]");
  expect((await runCommand("boot", "--help")).stdout).toContain("--violations fail");
  expect((await runCommand("demo", "failover", "--help")).stdout).toContain(
    "demo failover [--stop] [--json]",
  );
  expect((await runCommand("--version")).stdout).toMatch(/^guest-kernel \d+\.\d+\.\d+\n$/);
});

test("the demo ends by itself where there is no terminal, and keeps its sample disk", () => {
  const demo = (): { status: number | null; stdout: string } =>
    spawnSync(process.execPath, [program, "demo"], {
      encoding: "utf8",
      input: "",
      env: { ...process.env, XDG_CACHE_HOME: directory },
    });
  const hashOf = (text: string): string | undefined => /SHA256 .*/.exec(text)?.[0];
  const first = demo();
  const second = demo();
  expect([first.status, second.status]).toEqual([0, 0]);
  expect(first.stdout).toContain("# gpart show da0\n=>    34  131005  da0  GPT  (64M)\n");
  expect(hashOf(first.stdout)).toMatch(/ = [\da-f]{64}$/);
  expect(hashOf(second.stdout)).toBe(hashOf(first.stdout));
});

describe("a signal", () => {
  /** Runs the program and sends it a signal when it has printed something. */
  const interrupt = async (
    signal: NodeJS.Signals,
    ...args: string[]
  ): Promise<{ status: number | null; stdout: string }> => {
    const child = spawn(process.execPath, [program, "boot", ...args], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let stdout = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stdout.once("data", () => child.kill(signal));
    const [status] = (await once(child, "close")) as [number | null];
    return { status, stdout };
  };

  test("while a command runs ends that line, and then the guest in good order", async () => {
    const copy = "dd if=/dev/random of=/dev/da0 bs=512 status=none";
    const endless = "dd if=/dev/zero of=/dev/null bs=64k status=none";
    const line = `echo begun; ${copy}; ${endless}; echo after`;
    const result = await interrupt("SIGINT", "--disk", disk, "--exec", line, "--exec", "echo next");
    expect(result).toEqual({ status: 130, stdout: "begun\n" });
    expect(await checkImageFile(disk)).toEqual([]);
  });

  test("while the guest boots lets it boot and ends it in good order", async () => {
    const plan = join(directory, "slow.json");
    writeFileSync(plan, '{ "faults": [{ "kind": "late-completion", "delayMs": 20 }] }');
    const { status, stdout } = await interrupt("SIGTERM", "--disk", disk, "--faults", plan);
    expect(status).toBe(143);
    expect(stdout).toMatch(/^FreeBSD .*All buffers synced\.\n.*Periph destroyed\n$/s);
  });

  test("leaves a report of what was done", async () => {
    const report = join(directory, "interrupted.xml");
    const line = "echo begun; dd if=/dev/zero of=/dev/null bs=64k; echo after";
    const args = ["--report", `junit=${report}`, "--quiet", "--exec", "echo x", "--exec", line];
    const { status } = await interrupt("SIGTERM", ...args);
    expect(status).toBe(143);
    const xml = readFileSync(report, "utf8");
    expect(xml).toContain("exit status 130");
  });
});

test("an exported disk is served until the program is interrupted", async () => {
  const socket = join(directory, "da0.sock");
  const args = [program, "boot", "--quiet", "--disk", disk, "--nbd", `da0=unix:${socket}`];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const [uri] = (await once(child.stdout.setEncoding("utf8"), "data")) as [string];
  expect(uri).toBe(`nbd+unix:///da0?socket=${socket}\n`);
  const client = await NbdClient.connect(uri.trim());
  const data = Buffer.alloc(4096, 0x5a);
  expect((await client.write(8192, data)).error).toBe(0);
  child.kill("SIGTERM");
  const [status] = (await once(child, "close")) as [number];
  await client.closed;
  expect([status, existsSync(socket)]).toEqual([143, false]);
  const image = await openImageFile(disk, { readOnly: true });
  const found = Buffer.alloc(4096);
  image.read(8192, found, 0, 4096);
  image.close();
  expect(found.equals(data)).toBe(true);
});

test("a disk that cannot be exported keeps the guest from booting", async () => {
  const { status, stderr } = await runCommand(
    "boot",
    "--disk",
    disk,
    "--nbd",
    "da5=unix:/nowhere/x",
  );
  expect([status, stderr]).toEqual([
    1,
    "guest-kernel: NBD export da5: the guest has no such disk; it has da0\n",
  ]);
});

test("output that nobody reads any more ends the guest in good order", async () => {
  const args = [program, "boot", "--disk", disk, "--exec", "cat /dev/zero"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  child.stdout.once("data", () => child.stdout.destroy());
  const [status] = (await once(child, "close")) as [number | null];
  expect([status, stderr]).toEqual([141, ""]);
  expect(await checkImageFile(disk)).toEqual([]);
});

test("with --json a failure is an object too", async () => {
  const path = join(directory, "none.vhdx");
  const { status, stdout, stderr } = await runCommand("boot", "--json", "--disk", path);
  expect(status).toBe(1);
  expect(JSON.parse(stdout)).toEqual({
    error: { code: "ERR_IMAGE_FILE", message: expect.stringContaining(path) as unknown },
  });
  expect(stderr).toContain(path);
});

test("an image that cannot be attached ends with status 1 and its reason", async () => {
  const { status, stderr } = await runCommand(
    "boot",
    "--disk",
    join(directory, "none.vhdx"),
    "--exec",
    "true",
  );
  expect(status).toBe(1);
  expect(stderr).toMatch(/^guest-kernel: .*none\.vhdx/);
});

test("disks are on the controllers that they are told to be on, and the bus speaks what it may", async () => {
  const { status, stdout } = await runCommand(
    ...["boot", "--json", "--ceiling", "3.0", "--disk", `${disk},controller=2`],
    ...["--exec", "camcontrol devlist; sysctl dev.vmbus.0.version"],
  );
  expect(status).toBe(0);
  const { commands, stats } = JSON.parse(stdout) as {
    commands: { stdout: string }[];
    stats: { version: string; controllers: { disks: unknown[] }[] };
  };
  expect(stats.version).toBe("3.0");
  expect(stats.controllers.map(({ disks }) => disks.length)).toEqual([0, 0, 1]);
  expect(commands[0]!.stdout).toMatch(/scbus2 target 0 lun 0 .*da0/);
  expect(commands[0]!.stdout).toContain("dev.vmbus.0.version: 3.0");
});

test("a disk with a FreeBSD system is attached as data, and told what can be done with it", async () => {
  const path = join(directory, "freebsd.vhdx");
  const image = await createImageFile(path, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 });
  const mbr = new Uint8Array(512);
  const view = new DataView(mbr.buffer);
  mbr[446 + 4] = 0xa5;
  view.setUint32(446 + 8, 64, true);
  view.setUint32(446 + 12, 1000, true);
  view.setUint16(510, 0xaa55, true);
  image.write(0, mbr, 0, mbr.byteLength);
  image.close();
  const { status, stdout, stderr } = await runCommand(
    "boot",
    "--disk",
    path,
    "--exec",
    "diskinfo da0s1",
  );
  expect([status, stdout]).toEqual([0, "da0s1\t512\t512000\t1000\t4096\t0\n"]);
  expect(stderr).toContain("da0 holds a FreeBSD system. It is attached as data");
  expect(stderr).toContain("'gpart show da0'");
  expect(stderr).toContain("hyperv-pc boot --boot-disk FILE");
});

test("--exec prints what the commands print and ends with the status of the first that failed", async () => {
  const good = await runCommand("boot", "--disk", `${disk},ro`, "--exec", "echo one; uname");
  expect(good).toEqual({ ...good, status: 0, stdout: "one\nFreeBSD\n", stderr: "" });
  const bad = await runCommand("boot", "--exec", "false; echo after", "--exec", "frob");
  expect([bad.status, bad.stdout, bad.stderr]).toEqual([1, "after\n", "sh: frob: not found\n"]);
});

test("--json and --report tell machines the same", async () => {
  const report = join(directory, "report.xml");
  const { status, stdout } = await runCommand(
    ...["boot", "--disk", disk, "--json", "--violations", "fail", "--report", `junit=${report}`],
    ...["--exec", "echo '<one>'; gpart show da9; false || frob"],
  );
  expect(status).toBe(1);
  const result = JSON.parse(stdout) as {
    disks: { name: string }[];
    commands: { stdout: string; lists: ExecutedList[] }[];
    violations: unknown[];
    stats: { controllers: unknown[] };
  };
  expect(result.disks.map(({ name }) => name)).toEqual(["da0"]);
  const { lists } = result.commands[0]!;
  const told = lists.map(({ text, status: each, stdout, stderr }) => [text, each, stdout, stderr]);
  expect(told).toEqual([
    ["echo <one>", 0, "<one>\n", ""],
    ["gpart show da9", 1, "", "gpart: No such geom: da9.\n"],
    ["false || frob", 127, "", "sh: frob: not found\n"],
  ]);
  expect(result.violations).toEqual([]);
  expect(result.stats.controllers.length).toBe(1);
  const xml = readFileSync(report, "utf8");
  expect(xml).toContain('tests="4" failures="2"');
  expect(xml).toContain('name="echo &lt;one&gt;"');
  expect(xml).toContain(
    '<failure message="exit status 1">exit status 1\ngpart: No such geom: da9.\n</failure>\n' +
      "    <system-out></system-out>",
  );
});
