import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { boot, type BootOptions } from "@hyperv-is/guest-kernel";
import { createImageFile, openImageFile } from "@hyperv-is/vhd/node";
import { lendsThread, parseHostThreads } from "../src/machine-threads.js";
import { allowedCpus } from "@hyperv-is/platform-node";

function whyNot(): string | undefined {
  if (process.platform !== "linux") return "threads are pinned on Linux only";
  try {
    createRequire(import.meta.resolve("@hyperv-is/platform-node")).resolve("koffi");
  } catch {
    return "the package koffi is not installed";
  }
  return allowedCpus().length < 2 ? "this program may use one CPU only" : undefined;
}
const reason = whyNot();
if (reason !== undefined) console.warn(`pinned threads: skipped: ${reason}`);

/** How many threads of this process the kernel keeps on each CPU alone. */
function pinnedThreads(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const task of readdirSync("/proc/self/task")) {
    const status = readFileSync(`/proc/self/task/${task}/status`, "utf8");
    const cpus = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)![1]!;
    if (/^\d+$/.test(cpus)) counts[cpus] = (counts[cpus] ?? 0) + 1;
  }
  return counts;
}

async function pinnedBy(options: BootOptions): Promise<Record<string, number>> {
  await using machine = await boot(options);
  const { stdout } = await machine.exec("dd if=/dev/da0 of=/dev/null bs=64k count=16");
  expect(stdout).toBe("");
  expect(machine.host.violations).toEqual([]);
  return pinnedThreads();
}

describe.skipIf(reason !== undefined)("a machine with pinned threads", () => {
  const [one = 0, other = 0] = allowedCpus();
  const disk = { kind: "ram", sizeBytes: 2 ** 20, identity: new Uint8Array(16).fill(7) } as const;
  const common = { memoryBytes: 32 * 2 ** 20, disks: [disk] };

  test("has each of them where it is to be", async () => {
    expect(await pinnedBy(common)).toEqual({});
    const pin = { vcpu0: other, disks: other };
    expect(await pinnedBy({ ...common, pin })).toEqual({ [other]: 2 });
    expect(pinnedThreads()).toEqual({});
  });

  test("has other processors and the network elsewhere", async () => {
    const pin = { vcpu1: other, disks: one, network: one };
    const machine = { ...common, cpus: 2, switches: [{ name: "lan" }], pin };
    expect(await pinnedBy(machine)).toEqual({ [one]: 2, [other]: 1 });
  });

  test("is one thread where the boot processor serves the devices", async () => {
    const pin = { vcpu0: other };
    const machine = { ...common, switches: [{ name: "lan" }], hostThreads: "vcpu0", pin } as const;
    expect(await pinnedBy(machine)).toEqual({ [other]: 1 });
    await expect(boot({ ...machine, pin: { disks: other } })).rejects.toMatchObject({
      code: "ERR_PIN",
      message: "there is no thread disks to be pinned: this machine has vcpu0",
    });
  });

  test.each([
    [{ vcpu1: 0 }, "ERR_PIN", "no thread vcpu1 to be pinned: this machine has vcpu0, disks"],
    [{ disk0: 0 }, "ERR_PIN", "no thread disk0"],
    [{ network: 0 }, "ERR_PIN", "has vcpu0, disks, and network with an adapter or a switch"],
    [{ vcpu0: 8191 }, "ERR_AFFINITY", "vcpu0 cannot be pinned to CPU 8191"],
  ])("does not boot with %j", async (pin, code, message) => {
    await expect(boot({ pin })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message) as unknown,
    });
    expect(pinnedThreads()).toEqual({});
  });
});

describe("the boot processor serves the devices", () => {
  test.each([
    // choice, pin, isServing, CPUs of the system
    ["auto", {}, true, 1, true],
    ["auto", {}, true, 2, true],
    ["auto", {}, true, 3, false],
    ["auto", {}, false, 2, false],
    ["auto", { vcpu0: 1 }, true, 2, true],
    ["auto", { disks: 1 }, true, 2, false],
    ["auto", { vcpu0: 0, network: 1 }, true, 2, false],
    ["own", {}, true, 1, false],
    ["vcpu0", {}, false, 64, true],
  ] as const)("%s, %j, %s, %i CPUs: %s", (choice, pin, isServing, systemCpus, expected) => {
    expect(lendsThread(choice, pin, isServing, systemCpus)).toBe(expected);
  });

  test.each(["own", "vcpu0"] as const)(
    "and lets go of them when it fails, as threads of their own do (%s)",
    async (hostThreads) => {
      const directory = mkdtempSync(join(tmpdir(), "machine-threads-"));
      const path = join(directory, "disk.vhdx");
      (await createImageFile(path, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 })).close();
      const machine = await boot({ disks: [path], hostThreads });
      await machine.exec("dd if=/dev/random of=/dev/da0 bs=64k count=1");
      const module = new URL("kthreads/misbehave.mjs", import.meta.url);
      await machine.kthread({ module, args: { how: "throw in a completion" } });
      await expect(machine.ended).rejects.toThrow("told to throw in a completion");
      await machine.shutdown();
      // The GUID of the log, in the first header: none, once the image was closed in good order.
      const logGuid = readFileSync(path).subarray(64 * 1024 + 48, 64 * 1024 + 64);
      expect(Uint8Array.from(logGuid)).toEqual(new Uint8Array(16));
      (await openImageFile(path)).close();
      rmSync(directory, { recursive: true });
    },
  );

  test("if it is said in one of three words", () => {
    expect(parseHostThreads("own")).toBe("own");
    expect(() => parseHostThreads("two")).toThrow("--host-threads two: write auto, own, vcpu0");
  });
});
