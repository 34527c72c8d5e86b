import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { boot } from "@hyperv-is/guest-kernel";
import { ControlClient, controlDirectory, controlPath } from "@hyperv-is/hyperv-host/node";
import { createImageFile, openImageFile } from "@hyperv-is/vhd/node";

const root = dirname(
  createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
);
const program = join(root, "dist", "bin", "guest-kernel.js");

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
  expect(scsi).toMatchObject(own.workers[0]![0]!);
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
