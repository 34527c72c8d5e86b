import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { boot, type BootOptions } from "@hyperv-is/guest-kernel";
import { KvpDaemon, MemoryPools, noNetwork } from "@hyperv-is/hv-kvp";
import { serveDaemon } from "@hyperv-is/hv-kvp/node";
import { linuxDialect } from "@hyperv-is/hv-kvp/protocol";
import { ControlClient, controlPath } from "@hyperv-is/hyperv-host/node/control";

let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "guest-kvp-"));
  vi.stubEnv("XDG_RUNTIME_DIR", directory);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true });
});

const small: BootOptions = { memoryBytes: 64 * 2 ** 20 };
const require = createRequire(import.meta.url);
const host = join(
  dirname(require.resolve("@hyperv-is/hyperv-host/package.json")),
  "dist/bin/hyperv-host.js",
);

/** Runs `hyperv-host vm ...`, which this process answers. */
async function vm(
  ...args: string[]
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [host, "vm", ...args]);
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const [status] = (await once(child, "close")) as [number | null];
  return { status, stdout, stderr };
}

test("the host of a booted guest sets, lists and deletes keys, and sees what the guest is", async () => {
  await using machine = await boot({ ...small, control: "kvp" });
  expect(await vm("kvp", "set", "kvp", "color", "green")).toMatchObject({ status: 0, stderr: "" });
  expect((await vm("kvp", "list", "kvp", "--pool", "0")).stdout).toBe("color  green\n");
  using client = await ControlClient.connect(controlPath("kvp"));
  const auto = await client.call("get-vm-kvp", { pool: 2 });
  expect(auto.map(({ key }) => key)).toContain("NetworkAddressIPv4");
  expect(auto.find(({ key }) => key === "OSName")?.value).toBe("FreeBSD");
  await client.call("remove-vm-kvp", { key: "color" });
  await expect(client.call("remove-vm-kvp", { key: "color" })).rejects.toMatchObject({
    code: "ERR_GUEST_REFUSED",
  });
  await expect(client.call("set-vm-kvp", { pool: 2, key: "a", value: "b" })).rejects.toMatchObject({
    code: "ERR_GUEST_REFUSED",
  });
  expect(await vm("kvp", "get", "kvp", "color", "--pool", "0")).toMatchObject({ status: 1 });
  expect((await vm("kvp", "get", "kvp")).status).toBe(2);
  expect((await vm("ip", "get", "kvp", "00:15:5d:00:00:00")).stderr).toContain(
    "the machine has no adapter",
  );
  expect(machine.host.violations).toEqual([]);
});

test("--dev: without its own daemon the guest serves the one at the device node", async () => {
  const messages: string[] = [];
  await using machine = await boot({
    ...small,
    deviceDirectory: directory,
    dialect: "linux",
    keyValueDaemon: false,
    onMessage: (line) => void messages.push(line),
  });
  const node = join(directory, "vmbus/hv_kvp");
  expect(messages).toContain(`hvkvp0: device node ${node}`);
  const set = machine.host.request({
    kind: "kvp",
    request: { operation: 1, pool: 0, key: "color", value: "green" },
  });
  await expect(set).rejects.toMatchObject({ code: "ERR_GUEST_NOT_READY" });
  const pools = new MemoryPools();
  const facts = { read: () => Promise.reject(new Error("nobody enumerates pool 2")) };
  const daemon = new KvpDaemon({ dialect: linuxDialect, pools, facts, network: noNetwork });
  const serving = serveDaemon(node, daemon);
  // The guest answers the host's offer as soon as the daemon has registered.
  await vi.waitFor(async () =>
    machine.host.request({
      kind: "kvp",
      request: { operation: 1, pool: 0, key: "color", value: "green" },
    }),
  );
  expect(pools.items(0)).toEqual([{ key: "color", value: "green" }]);
  expect(machine.host.violations).toEqual([]);
  await machine.shutdown();
  await serving;
  expect(existsSync(node)).toBe(false);
});

test("the host of a booted guest sets the addresses of an adapter, and reads them", async () => {
  await using machine = await boot({
    control: "kvp-ip",
    nics: [{ switch: "lan", mac: "00:15:5d:0a:01:01" }],
    switches: [{ name: "lan" }],
  });
  const { mac, instanceId } = machine.nics[0]!;
  const set = await vm(
    ...["ip", "set", "kvp-ip", instanceId],
    ...["--address", "192.0.2.7/24", "--gateway", "192.0.2.1", "--dns", "192.0.2.2"],
  );
  expect(set).toMatchObject({ status: 0, stderr: "" });
  expect((await machine.exec("ifconfig hn0")).stdout).toMatch(
    /inet 192\.0\.2\.7 netmask 0xffffff00/,
  );
  expect((await machine.exec("netstat -rn")).stdout).toMatch(/^default +192\.0\.2\.1 /m);
  const { stdout } = await vm("ip", "get", "kvp-ip", mac);
  for (const address of ["192.0.2.7", "192.0.2.1", "192.0.2.2"]) expect(stdout).toContain(address);
  expect((await vm("ip", "set", "kvp-ip", instanceId, "--address", "2001:db8::7/64")).status).toBe(
    1,
  );
  expect((await machine.exec("ifconfig hn0")).stdout).toContain("inet 192.0.2.7 ");
  expect(machine.host.violations).toEqual([]);
});
