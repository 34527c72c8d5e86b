import { randomFillSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { boot, type BootDisk, type BootOptions, type Machine } from "@hyperv-is/guest-kernel";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";

const ram = (megabytes: number): BootDisk => ({
  kind: "ram",
  sizeBytes: megabytes * 2 ** 20,
  identity: randomFillSync(new Uint8Array(16)),
});

const moduleFile = join(
  dirname(createRequire(import.meta.url).resolve("@hyperv-is/hv-storvsc/package.json")),
  "dist",
  "hv_storvsc.ko",
);

const module = (name: string): URL => new URL(`./kthreads/${name}.mjs`, import.meta.url);

/** Runs a story on a machine; the guest must have kept to the protocol, and powers off in good order. */
async function withMachine(
  options: BootOptions,
  story: (machine: Machine) => Promise<void>,
): Promise<void> {
  const machine = await boot(options);
  try {
    await story(machine);
    expect(machine.host.violations).toEqual([]);
  } finally {
    await machine.shutdown();
  }
}

/** CPUs of the open channels of the first controller, as the host knows them. */
async function cpusWithChannels(machine: Machine): Promise<(number | undefined)[]> {
  const { channels } = await machine.host.stats();
  return channels
    .filter(({ state, classId }) => state === "open" && classId === DeviceClass.scsi.classId)
    .map(({ targetVp }) => targetVp)
    .sort();
}

/** Resolves when dmesg has a line that matches. */
async function dmesgHas(machine: Machine, line: RegExp): Promise<void> {
  while (!machine.dmesg.some((text) => line.test(text))) await machine.exec("true");
}

const load = (cpu: number) => ({
  module: module("load"),
  cpu,
  name: `load${cpu}`,
  args: { disk: "da0", first: cpu * 2 ** 20, blocks: 64, depth: 16, rounds: 20 },
});

describe.each(["own", "vcpu0"] as const)(
  "kernel threads on four CPUs, host on %s",
  (hostThreads) => {
    let machine: Machine;
    beforeAll(async () => {
      machine = await boot({ cpus: 4, disks: [ram(8)], hostThreads });
    });
    afterAll(async () => {
      expect(machine.host.violations).toEqual([]);
      await machine.shutdown();
    });

    test("use the disk side by side, each on its own channel", async () => {
      const threads = await Promise.all([0, 1, 2, 3].map((cpu) => machine.kthread(load(cpu))));
      const results = await Promise.all(threads.map(({ ended }) => ended));
      expect(results).toEqual([0, 1, 2, 3].map((cpu) => ({ cpu, reads: 1280, wrong: 0 })));
      const { stdout } = await machine.exec("sysctl dev.storvsc.0.channel | grep send_req");
      const sent = [...stdout.matchAll(/: (\d+)$/gm)].map(([, count]) => Number(count));
      expect(sent).toHaveLength(4);
      // A write, in pieces or not, a flush, and the reads.
      for (const count of sent) expect(count).toBeGreaterThanOrEqual(1282);
      expect((await machine.exec("sysctl -n dev.storvsc.0.bounced")).stdout).toBe("0\n");
    });

    test("give back what they took of their CPU", async () => {
      for (let round = 0; round < 40; round++) await (await machine.kthread(load(1))).ended;
    });

    test("end when they are told to", async () => {
      const thread = await machine.kthread({ module: module("wait"), cpu: 2, name: "waiter" });
      expect((await machine.exec("kthread list")).stdout).toBe(
        `ID CPU NAME\n${String(thread.id).padStart(2)}   2 waiter\n`,
      );
      await thread.stop();
      expect(await thread.ended).toBe("ended");
      await thread.stop();
      expect((await machine.exec("kthread list")).stdout).toBe("ID CPU NAME\n");
    });

    test.each([0, 3])("may use what Node serves, on CPU %i", async (cpu) => {
      const thread = await machine.kthread({ module: module("wait"), cpu, args: ["nap"] });
      await dmesgHas(machine, /^wait: waiting with nap$/);
      await thread.stop();
      expect(await thread.ended).toBe("ended");
    });

    test("that fail say why, and in dmesg too", async () => {
      const start = (how: string) =>
        machine.kthread({ module: module("misbehave"), cpu: 1, name: "bad", args: { how } });
      const thrown = await start("throw");
      await expect(thrown.ended).rejects.toMatchObject({
        name: "TypeError",
        message: "told to throw",
      });
      expect(machine.dmesg).toContain(
        `bad (kthread ${thrown.id} on cpu1): TypeError: told to throw`,
      );
      const returned = await start("return a function");
      await expect(returned.ended).rejects.toMatchObject({ name: "DataCloneError" });
      expect(await (await machine.kthread(load(1))).ended).toMatchObject({ wrong: 0 });
    });

    test.each([
      [{ module: "/nowhere/thread.mjs", cpu: 1 }, /^thread: Cannot find module/],
      [{ module: module("no-main"), cpu: 1 }, /no-main\.mjs exports no function main$/],
      [{ module: module("wait"), cpu: 4 }, /^wait: there is no CPU 4$/],
    ])("that cannot be started are refused: %o", async (options, message) => {
      const refused = machine.kthread(options);
      await expect(refused).rejects.toMatchObject({ code: "ERR_KTHREAD" });
      await expect(refused).rejects.toThrow(message);
    });

    test("are started at the console too", async () => {
      const file = module("wait").pathname;
      const run = async (line: string): Promise<[number, string, string]> => {
        const { status, stdout, stderr } = await machine.exec(line);
        return [status, stdout, stderr];
      };
      expect(await run(`kthread run -c 1 ${file} now a b`)).toEqual([0, '["a","b"]\n', ""]);
      const [, started] = await run(`kthread run -b -c 3 -n back ${file}`);
      expect((await run("kthread list"))[1]).toContain("   3 back\n");
      expect(await run(`kthread stop ${started.trim()}`)).toEqual([0, "", ""]);
      expect(await run("kthread list")).toEqual([0, "ID CPU NAME\n", ""]);
      expect(await run("kthread stop 99")).toEqual([1, "", "kthread: 99: No such process\n"]);
      expect(await run(`kthread run -c 9 ${file}`)).toEqual([
        1,
        "",
        "kthread: wait: there is no CPU 9\n",
      ]);
      expect((await run("kthread run"))[2]).toContain("usage: kthread list");
      const abort = new AbortController();
      const running = machine.exec(`kthread run -c 2 -n front ${file}`, { signal: abort.signal });
      await dmesgHas(machine, /^front: waiting/);
      abort.abort();
      expect((await running).status).toBe(130);
      expect((await run("kthread list"))[1]).toBe("ID CPU NAME\n");
    });
  },
);

test("a CPU without a channel says so", async () => {
  await withMachine({ cpus: 2, subChannels: 0, disks: [ram(4)] }, async (machine) => {
    const { ended } = await machine.kthread(load(1));
    await expect(ended).rejects.toThrow("cpu1 has no channel to da0");
    const { ended: other } = await machine.kthread({ ...load(0), args: { disk: "da7" } });
    await expect(other).rejects.toThrow("there is no disk da7");
  });
});

describe("a CPU that goes", () => {
  test.each([
    ["throw in a completion", /^cpu1: stopped: told to throw in a completion$/],
    ["exit", /^cpu1: stopped: ended with code 3$/],
    ["spin", /^cpu1: stopped: terminated$/],
  ])(
    "because its thread was told to %s closes its channels; the others go on",
    async (how, line) => {
      const tunables = { "kern.smp.timeout_ms": 400 };
      await withMachine({ cpus: 3, tunables, disks: [ram(8)] }, async (machine) => {
        const bad = { module: module("misbehave"), cpu: 1, name: "bad", args: { how } };
        const [thread, good] = await Promise.all([machine.kthread(bad), machine.kthread(load(2))]);
        await expect(thread.ended).rejects.toThrow("cpu1 is gone");
        expect(await good.ended).toMatchObject({ cpu: 2, wrong: 0 });
        await dmesgHas(machine, line);
        if (how === "spin") expect(machine.dmesg).toContain("cpu1: no answer for 400 ms");
        await dmesgHas(machine, /^storvsc0: chan\d+ on cpu1: cpu1 is gone$/);
        expect(machine.dmesg).toContain(`bad (kthread ${thread.id} on cpu1): Error: cpu1 is gone`);
        while ((await cpusWithChannels(machine)).length > 2) await machine.exec("true");
        expect(await cpusWithChannels(machine)).toEqual([0, 2]);
        expect((await machine.exec("sysctl -n kern.smp.cpus")).stdout).toBe("2\n");
        await expect(machine.kthread(load(1))).rejects.toThrow("there is no CPU 1");
        expect((await machine.exec("dd if=/dev/da0 of=/dev/null bs=64k")).status).toBe(0);
        expect((await machine.exec("sysctl dev.storvsc.0.channel")).status).toBe(0);
      });
    },
  );

  test("while the machine is shut down does not keep it", async () => {
    const tunables = { "kern.smp.timeout_ms": 400 };
    await withMachine({ cpus: 2, tunables, disks: [ram(4)] }, async (machine) => {
      await machine.kthread({ module: module("misbehave"), cpu: 1, args: { how: "spin" } });
    });
  });

  test("before it is up leaves the machine to the others", async () => {
    const directory = mkdtempSync(join(tmpdir(), "guest-kernel-cpu-"));
    const file = join(directory, "picky.ko");
    const picky = `import { workerData } from "node:worker_threads";
      if (workerData.data.index === 1) throw new Error("not on this CPU");\n`;
    writeFileSync(file, picky + readFileSync(moduleFile, "utf8"));
    await withMachine({ cpus: 3, modules: [file], disks: [ram(8)] }, async (machine) => {
      expect(machine.dmesg.join("\n")).toMatch(/^cpu1: stopped: .*not on this CPU$/m);
      expect(machine.dmesg.join("\n")).not.toContain("CPU #1 Launched");
      expect(await cpusWithChannels(machine)).toEqual([0, 2]);
      expect(await (await machine.kthread(load(2))).ended).toMatchObject({ wrong: 0 });
    });
    rmSync(directory, { recursive: true });
  });
});
