import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { boot, networkAdapterId, type CaptureStats, type Machine } from "@hyperv-is/guest-kernel";
import { ControlClient, controlDirectory, controlPath } from "@hyperv-is/hyperv-host/node/control";
import { createImageFile, openImageFile } from "@hyperv-is/vhd/node";
import { readCapture } from "../../../packages/platform-node/test/pcapng-reader.js";

const require = createRequire(import.meta.url);
const rootOf = (name: string): string =>
  dirname(require.resolve(`@hyperv-is/${name}/package.json`));
const program = join(rootOf("guest-kernel"), "dist", "bin", "guest-kernel.js");
const hostProgram = join(rootOf("hyperv-host"), "dist", "bin", "hyperv-host.js");

let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "guest-control-"));
  vi.stubEnv("XDG_RUNTIME_DIR", directory);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true });
});

test("a machine with a control socket shows what it does, until it ends", async () => {
  const machine = await boot({
    control: "web",
    disks: [{ kind: "ram", sizeBytes: 2 ** 20, identity: new Uint8Array(16).fill(5) }],
    memoryBytes: 64 * 2 ** 20,
    faults: { faults: [{ kind: "late-completion", delayMs: 1, operation: "write", nth: 2 }] },
  });
  using client = await ControlClient.connect(controlPath("web"));
  expect(client.program).toMatch(/^guest-kernel \d+\.\d+\.\d+/);
  expect(await client.call("get-vm", {})).toMatchObject({
    name: "web",
    processorCount: 1,
    memoryBytes: 64 * 2 ** 20,
    busState: "connected",
    violations: 0,
    processId: process.pid,
  });
  await machine.exec("dd if=/dev/random of=/dev/da0 bs=4k count=3; cat /dev/da0 | wc -c");
  const [stats, own] = [await client.call("stats", {}), await machine.host.stats()];
  expect(stats.uptimeMs).toBeGreaterThan(0);
  expect(stats.bus).toMatchObject({ version: own.version, messagesIn: own.messagesIn });
  expect(stats.channels).toHaveLength(own.channels.length);
  const [scsi] = stats.channels.filter(
    ({ state, device }) => state === "open" && device === "SCSI",
  );
  const opened = own.workers[0]!.find(({ relid }) => relid === scsi!.relid);
  expect(scsi).toMatchObject(opened!);
  expect(scsi!.packetsIn).toBeGreaterThan(3);
  const [disk] = stats.controllers[0]!.disks;
  expect(disk).toMatchObject({ lun: 0, writes: 3, writtenBytes: 3 * 4096 });
  expect(disk!.readBytes).toBeGreaterThanOrEqual(2 ** 20);
  expect(stats.faults).toEqual([{ kind: "late-completion", operation: "write", happened: 1 }]);
  expect(stats.violations).toEqual({ total: 0, rules: {} });
  await machine.shutdown();
  await client.closed;
  expect(readdirSync(controlDirectory())).toEqual([]);
  expect(machine.host.violations).toEqual([]);
});

/** What is kept of each packet in a pcapng file. */
function packetsOf(path: string): Buffer[] {
  return readCapture(readFileSync(path)).packets.map(({ data }) => data);
}

describe("a machine with a network adapter", () => {
  let machine: Machine;
  let client: ControlClient;
  beforeAll(async () => {
    machine = await boot({
      control: "net",
      nics: [{ switch: "lan" }],
      switches: [{ name: "lan" }],
    });
    client = await ControlClient.connect(controlPath("net"));
  });
  afterAll(async () => {
    client.close();
    expect(machine.host.violations).toEqual([]);
    await machine.shutdown();
  });

  /** Has the guest send frames. */
  const announce = (...hosts: readonly number[]): Promise<unknown> =>
    machine.exec(hosts.map((host) => `ifconfig hn0 192.0.2.${host}/24`).join(";"));
  const captured = async (): Promise<CaptureStats | undefined> =>
    (await client.call("stats", {})).adapters[0]!.capture;

  test("has its frames captured by hyperv-host, until that is interrupted", async () => {
    const path = join(directory, "hn0.pcapng");
    const args = [hostProgram, "capture", "net", "hn0", "-w", "hn0.pcapng"];
    const child = spawn(process.execPath, args, {
      cwd: directory,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let printed = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (printed += text));
    while ((await captured()) === undefined) await machine.exec("true");
    await announce(1, 2, 3);
    while ((await captured())?.frames !== 3) await machine.exec("true");
    child.kill("SIGINT");
    expect(await once(child, "exit")).toEqual([0, null]);
    expect(printed).toBe(`3 frames in ${path}\n`);
    // The addresses that were announced.
    expect(packetsOf(path).map((packet) => packet[31])).toEqual([1, 2, 3]);
    expect(await captured()).toBeUndefined();
  });

  test("has as many captured as were asked for, once at a time", async () => {
    const path = join(directory, "count.pcapng");
    const start = { adapter: "hn0", path, count: 2, snapBytes: 20 };
    expect(await client.call("start-capture", start)).toMatchObject({ path, frames: 0 });
    await expect(client.call("start-capture", start)).rejects.toMatchObject({
      code: "ERR_CONTROL_CAPTURE",
      message: expect.stringContaining(`hn0 is captured already, into ${path}`) as string,
    });
    await announce(4, 5, 6);
    const stopped = await client.call("stop-capture", { adapter: networkAdapterId(0) });
    expect(stopped).toEqual({ instanceId: networkAdapterId(0), path, frames: 2 });
    expect(packetsOf(path).map((packet) => packet.byteLength)).toEqual([20, 20]);
  });

  test.each([
    ["start-capture", { adapter: "hn1", path: "/tmp/x" }, "no network adapter hn1; it has hn0"],
    ["start-capture", { adapter: "hn0", path: "/nowhere/x" }, "ENOENT"],
    ["stop-capture", { adapter: "hn0" }, "hn0 is not captured"],
  ] as const)("%s of %o is refused", async (method, params, message) => {
    await expect(client.call(method, params as never)).rejects.toMatchObject({
      code: "ERR_CONTROL_CAPTURE",
      message: expect.stringContaining(message) as string,
    });
  });

  test("writes no file by a relative path", async () => {
    const relative = client.call("start-capture", { adapter: "hn0", path: "x" });
    await expect(relative).rejects.toMatchObject({ code: "ERR_CONTROL_PARAMS" });
  });
});

test("a machine whose control socket cannot be made does not start, and lets go of its images", async () => {
  const path = join(directory, "disk.vhdx");
  (await createImageFile(path, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 })).close();
  const first = await boot({ control: "one" });
  for (const [control, code] of [
    ["one", "ERR_CONTROL_IN_USE"],
    [join(directory, "none", "a.sock"), "ERR_CONTROL_ADDRESS"],
  ] as const)
    await expect(boot({ control, disks: [path] })).rejects.toMatchObject({ code });
  (await openImageFile(path)).close();
  using client = await ControlClient.connect(controlPath("one"));
  expect(await client.call("get-vm", {})).toMatchObject({ name: "one" });
  await first.shutdown();
});

test("guest-kernel boot --control has its socket removed when a signal ends it", async () => {
  const path = join(directory, "signalled.sock");
  const line = "echo begun; dd if=/dev/zero of=/dev/null bs=64k status=none";
  const child = spawn(process.execPath, [program, "boot", "--control", path, "--exec", line], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  using client = await ControlClient.connect(path);
  expect(await client.call("get-vm", {})).toMatchObject({
    name: "signalled",
    processId: child.pid,
  });
  child.kill("SIGTERM");
  expect(await once(child, "close")).toEqual([143, null]);
  await client.closed;
  expect(existsSync(path)).toBe(false);
});

test("a guest answers its host: heartbeat, time, shutdown and restart", async () => {
  const machine = await boot({ control: "ic", memoryBytes: 64 * 2 ** 20 });
  using client = await ControlClient.connect(controlPath("ic"));
  const output = async (line: string): Promise<string> => (await machine.exec(line)).stdout;
  await vi.waitFor(async () =>
    expect(await client.call("get-vm-heartbeat", {})).toMatchObject({
      status: "OkApplicationsHealthy",
      messageVersion: "3.0",
      lost: 0,
    }),
  );
  await vi.waitFor(async () =>
    expect(await client.call("get-vm-time", {})).toMatchObject({ syncs: 1, messageVersion: "4.0" }),
  );
  expect(machine.dmesg.join("\n")).toContain("hvheartbeat0: <Hyper-V Heartbeat> on vmbus0");
  expect(machine.dmesg).toContain("hvtimesync0: RTT");
  expect(await output("sysctl -n dev.hvshutdown.0.msg_version")).toBe("3.1\n");
  // A guest whose clock is wrong follows its host when it is told to, unless it is not to.
  expect(await output("date 202401010000.30")).toBe("Mon Jan  1 00:00:30 UTC 2024\n");
  await output("sysctl hw.hvtimesync.ignore_sync=1 hw.hvtimesync.sample_thresh=-1");
  await client.call("set-vm-time", { sync: true });
  await vi.waitFor(async () => expect((await client.call("get-vm-time", {})).syncs).toBe(2));
  expect(await output("date +%Y")).toBe("2024\n");
  await output("sysctl hw.hvtimesync.ignore_sync=0");
  await client.call("set-vm-time", { sync: true, offsetMs: 3_600_000 });
  await vi.waitFor(async () => expect((await client.call("get-vm-time", {})).syncs).toBe(3));
  const { timeMs } = await client.call("get-vm-time", {});
  expect(Math.abs(Number(await output("date +%s")) - timeMs / 1000)).toBeLessThan(5);
  await client.call("restart-vm", { message: "new kernel" });
  expect(await machine.ended).toBe("restart");
  await machine.shutdown();
  expect(machine.dmesg).toContain("hvshutdown0: restart requested, reason 0x80000000: new kernel");
  expect(machine.host.violations).toEqual([]);
});

test("guest-kernel boot --control runs until its host shuts it down, and starts anew when it is to", async () => {
  const child = spawn(process.execPath, [program, "boot", "--control", "vm", "--quiet"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = once(child, "exit");
  const started = (): Promise<void> =>
    vi.waitFor(
      async () => {
        using client = await ControlClient.connect(controlPath("vm"));
        expect((await client.call("get-vm-heartbeat", {})).answered).toBeGreaterThan(0);
      },
      { timeout: 20_000 },
    );
  const call = async (method: "restart-vm" | "stop-vm"): Promise<void> => {
    using client = await ControlClient.connect(controlPath("vm"));
    await client.call(method, {});
    await client.closed;
  };
  await started();
  await call("restart-vm");
  await started();
  await call("stop-vm");
  expect(await exit).toEqual([0, null]);
});

test("guest-kernel boot --exec says so when its host shuts it down before the commands are done", async () => {
  const line = "ping 127.0.0.1";
  const child = spawn(process.execPath, [program, "boot", "--control", "cut", "--exec", line]);
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
  const exit = once(child, "close");
  await once(child.stdout, "data");
  using client = await ControlClient.connect(controlPath("cut"));
  await vi.waitFor(() => client.call("stop-vm", {}), { timeout: 20_000 });
  expect(await exit).toEqual([4, null]);
  expect(complaint).toBe(`The host has shut the guest down; not done: ${line}\n`);
});
