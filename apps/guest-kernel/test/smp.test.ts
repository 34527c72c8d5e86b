import { randomFillSync } from "node:crypto";
import { createRequire } from "node:module";
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

/** Boots, looks, and shuts down; the guest must have kept to the protocol. */
async function look(options: BootOptions, see: (machine: Machine) => Promise<void>): Promise<void> {
  const machine = await boot(options);
  await see(machine);
  expect(machine.host.violations).toEqual([]);
  await machine.shutdown();
}

/** CPU of each of the first controller's channels, the primary's first. */
async function cpusOf(machine: Machine): Promise<number[]> {
  const { stdout } = await machine.exec("sysctl -n dev.storvsc.0.channel");
  const { stdout: names } = await machine.exec("sysctl -N dev.storvsc.0.channel");
  const values = stdout.trim().split("\n");
  return names
    .trim()
    .split("\n")
    .flatMap((name, at) => (name.endsWith(".cpu") ? [Number(values[at])] : []));
}

describe.each<[string, BootOptions]>([
  ["in tree", {}],
  ["as a module", { modules: [moduleFile] }],
  ["whose disks the first of them serves", { hostThreads: "vcpu0" }],
])("four CPUs with hv-storvsc %s", (_, options) => {
  let machine: Machine;
  beforeAll(async () => {
    machine = await boot({ cpus: 4, disks: [ram(16)], ...options });
  });
  afterAll(async () => {
    expect(machine.host.violations).toEqual([]);
    await machine.shutdown();
  });

  const run = async (line: string): Promise<string> => (await machine.exec(line)).stdout;

  test("come up, and say so in FreeBSD's words", async () => {
    const text = machine.dmesg.join("\n");
    expect(text).toContain(
      "FreeBSD/SMP: Multiprocessor System Detected: 4 CPUs\n" +
        "SMP: AP CPU #1 Launched!\nSMP: AP CPU #2 Launched!\nSMP: AP CPU #3 Launched!\n",
    );
    expect(await run("sysctl -n hw.ncpu kern.smp.cpus")).toBe("4\n4\n");
  });

  test("have a channel each, under the names of FreeBSD", async () => {
    const channels = (await machine.host.stats()).channels.filter(
      ({ state, classId }) => state === "open" && classId === DeviceClass.scsi.classId,
    );
    const places = channels.map(({ subChannelIndex, targetVp }) => [subChannelIndex, targetVp]);
    expect(places).toEqual([
      [0, 0],
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    const [primary, , second] = channels;
    const root = `dev.storvsc.0.channel.${primary!.relid}`;
    expect(await run(`sysctl ${root}.sub.2.chanid ${root}.sub.2.cpu`)).toBe(
      `${root}.sub.2.chanid: ${second!.relid}\n${root}.sub.2.cpu: 2\n`,
    );
    expect(await run(`sysctl -n ${root}.sub.3.br.tx.state ${root}.sub.3.send_req`)).toBe(
      "rindex:0 windex:0 imask:0 ravail:0 wavail:258048\n0\n",
    );
    expect(await run("sysctl -d dev.storvsc.0.signals_per_1k")).toContain("per 1,000 requests");
    const listed = await run("lsvmbus -v");
    expect(listed).toContain(`Rel_ID=${second!.relid}, target_cpu=2`);
  });

  test("can be looked into", async () => {
    const { controllers } = (await machine.inspect()) as {
      controllers: { channels: { cpu: number }[] }[];
    };
    // The primary channel first; the others as they were opened.
    const cpus = controllers[0]!.channels.map(({ cpu }) => cpu);
    expect(cpus[0]).toBe(0);
    expect(cpus.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3]);
  });
});

test("a host with fewer sub-channels than CPUs, and a limit of the guest's own", async () => {
  await look({ cpus: 4, subChannels: 1, disks: [ram(4)] }, async (machine) => {
    expect((await cpusOf(machine)).sort()).toEqual([0, 1]);
  });
  const tunables = { "hw.storvsc.chan_cnt": 3 };
  await look({ cpus: 4, tunables, disks: [ram(4)] }, async (machine) => {
    expect((await cpusOf(machine)).sort()).toEqual([0, 1, 2]);
  });
});

test("the rule of FreeBSD 10.2 makes one channel more than there are CPUs", async () => {
  const options = { cpus: 2, subChannels: 8, tunables: { "hw.storvsc.chan_extra": 1 } };
  await look({ ...options, disks: [ram(4)] }, async (machine) => {
    expect((await cpusOf(machine)).sort()).toEqual([0, 0, 1]);
    expect((await machine.exec("dd if=/dev/da0 of=/dev/null bs=64k")).status).toBe(0);
  });
});

test("a bus that knows one CPU leaves the others without channels", async () => {
  const faults = { faults: [{ kind: "refused-version", version: 0x0002_0004 } as const] };
  await look({ cpus: 3, faults, disks: [ram(4)] }, async (machine) => {
    expect((await machine.exec("sysctl -n dev.vmbus.0.version")).stdout).toBe("1.1\n");
    expect(await cpusOf(machine)).toEqual([0]);
  });
});
