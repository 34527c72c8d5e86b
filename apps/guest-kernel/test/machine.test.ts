import { randomFillSync } from "node:crypto";
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createImageFile, openImageFile } from "@hyperv-is/vhd/node";
import {
  boot,
  boot as bootMachine,
  type BootDisk,
  type BootOptions,
  type HostThreads,
  type Machine,
} from "@hyperv-is/guest-kernel";

const directory = mkdtempSync(join(tmpdir(), "guest-kernel-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const ram = (megabytes: number): BootDisk => ({
  kind: "ram",
  sizeBytes: megabytes * 2 ** 20,
  identity: randomFillSync(new Uint8Array(16)),
});

/** Asserts that the guest kept to the protocol. */
const noViolations = (machine: Machine): void => expect(machine.host.violations).toEqual([]);

const packageOf = (name: string): string =>
  dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
const moduleFile = join(packageOf("@hyperv-is/hv-storvsc"), "dist", "hv_storvsc.ko");

/** GUID of the log of a VHDX, in its first header: all zeros once it was closed in good order. */
const logGuid = (path: string): Uint8Array =>
  Uint8Array.from(readFileSync(path).subarray(64 * 1024 + 48, 64 * 1024 + 64));

/** Where the driver comes from, or who serves its disks, and the files that `kldstat` then lists. */
const settings: readonly [string, BootOptions, string[]][] = [
  ["in tree", {}, ["kernel"]],
  ["loaded as a module", { modules: [moduleFile] }, ["kernel", "hv_storvsc.ko"]],
  ["whose disks its own CPU serves", { hostThreads: "vcpu0" }, ["kernel"]],
];

describe.each(settings)("with hv-storvsc %s", (setting, common, files) => {
  const start = (options: BootOptions): Promise<Machine> => boot({ ...options, ...common });

  describe("a booted guest", () => {
    let machine: Machine;
    const lines: string[] = [];
    beforeAll(async () => {
      machine = await start({ disks: [ram(64), ram(8)], onMessage: (line) => lines.push(line) });
    });
    afterAll(async () => {
      noViolations(machine);
      await machine.shutdown();
    });

    const run = async (line: string, status = 0): Promise<string> => {
      const result = await machine.exec(line);
      expect({ line, status: result.status, stderr: result.stderr }).toMatchObject({
        line,
        status,
      });
      return result.stdout + result.stderr;
    };

    test("says in FreeBSD's words what it found", () => {
      const text = lines.join("\n");
      expect(text).toContain('Hypervisor: Origin = "Microsoft Hv"');
      expect(text).toContain("vmbus0: <Hyper-V Vmbus> on acpi_syscontainer0\nvmbus0: version ");
      expect(text).toContain("storvsc0: <Hyper-V SCSI> on vmbus0");
      expect(text).toContain(
        "da0 at storvsc0 bus 0 scbus0 target 0 lun 0\n" +
          "da0: <Msft Virtual Disk 1.0> Fixed Direct Access SPC-3 SCSI device\n" +
          "da0: 300.000MB/s transfers\nda0: Command Queueing enabled\n" +
          "da0: 64MB (131072 512 byte sectors)",
      );
      expect(machine.disks.map(({ name, sizeBytes }) => [name, sizeBytes])).toEqual([
        ["da0", 64 * 2 ** 20],
        ["da1", 8 * 2 ** 20],
      ]);
    });

    test("lists its disks, its devices and what the host offers", async () => {
      expect(await run("camcontrol devlist")).toBe(
        "<Msft Virtual Disk 1.0>            at scbus0 target 0 lun 0 (da0,pass0)\n" +
          "<Msft Virtual Disk 1.0>            at scbus0 target 0 lun 1 (da1,pass1)\n",
      );
      expect(await run("camcontrol devlist -b")).toBe(
        "scbus0 on storvsc0 bus 0\nscbus-1 on xpt0 bus 0\n",
      );
      expect(await run("camcontrol tur da1")).toBe("Unit is ready\n");
      expect(await run("camcontrol readcap da1")).toBe(
        "Last Block: 16383, Block Length: 512 bytes\n",
      );
      expect(await run("camcontrol inquiry da0")).toContain("pass0: <Msft Virtual Disk 1.0> Fixed");
      expect(await run("camcontrol inquiry -S da0")).toMatch(/^naa\.60022480[\da-f]{24}\n$/);
      expect(await run("camcontrol inquiry -SR da0")).toMatch(
        /^pass0: Serial Number naa\..*\npass0: 300\.000MB\/s transfers, .*\n$/,
      );
      expect(await run("devinfo -v | grep storvsc0")).toMatch(
        /^ +storvsc0 pnpinfo classid=ba6163d9-\S+ deviceid=\S+\n$/,
      );
      expect((await run("lsvmbus | wc -l")).trim()).toBe("14");
      expect(await run("lsvmbus -v | grep -n Rel_ID | head -n 1")).toContain(
        "Rel_ID=1, target_cpu=0",
      );
      expect(await run("diskinfo -v da0")).toContain("\t131072         \t# mediasize in sectors\n");
    });

    test("has its driver where it should come from", async () => {
      const listed = (await run("kldstat")).trimEnd().split("\n").slice(1);
      expect(listed.map((line) => line.split(" ").at(-1))).toEqual(files);
      expect(await run(`kldstat -v -n ${files.at(-1)!}`)).toMatch(/^\t\t +\d+ storvsc$/m);
    });

    test("shows and guards its sysctl tree", async () => {
      expect(await run("sysctl -n kern.ostype")).toBe("FreeBSD\n");
      expect(await run("sysctl dev.storvsc.0.%desc")).toBe("dev.storvsc.0.%desc: Hyper-V SCSI\n");
      expect(await run("sysctl -d hw.ncpu")).toBe("hw.ncpu: Number of active CPUs\n");
      expect(await run("sysctl dev.hn.9.caps", 1)).toBe("sysctl: unknown oid 'dev.hn.9.caps'\n");
      expect(await run("sysctl dev.vmbus.0.version=3.0", 1)).toBe(
        "sysctl: oid 'dev.vmbus.0.version' is read only\n",
      );
      expect(await run("sysctl -n dev.storvsc.0 | grep rindex | head -n 1")).toMatch(
        /^rindex:(\d+) windex:\1 imask:[01] ravail:0 wavail:258048\n$/,
      );
      const before = Number(await run("sysctl -n dev.storvsc.0.data_bio_cnt"));
      await run("dd if=/dev/da0 of=/dev/null bs=4k count=8 status=none");
      expect(Number(await run("sysctl -n dev.storvsc.0.data_bio_cnt"))).toBe(before + 8);
    });

    test("copies, hashes and compares through the protocol", async () => {
      await run("dd if=/dev/random of=/dev/da0 bs=1m count=8 status=none");
      expect(await run("dd if=/dev/da0 of=/dev/da1 bs=128k count=64")).toMatch(
        /^64\+0 records in\n64\+0 records out\n8388608 bytes transferred in /,
      );
      const first = await run("dd if=/dev/da0 bs=1m count=8 status=none | sha256");
      expect(await run("sha256 -q /dev/da1")).toBe(first);
      expect(await run("cat /dev/da1 | sha256")).toBe(first);
      expect((await run("cat /dev/da1 | head -c 1000 | wc -c")).trim()).toBe("1000");
      await run("dd if=/dev/zero of=/dev/da1 bs=64k count=128 status=none");
      expect(await run("sha256 -q /dev/da1")).not.toBe(first);
    });

    test("answers as FreeBSD does when something is not there", async () => {
      expect(await run("frobnicate", 127)).toBe("sh: frobnicate: not found\n");
      expect(await run("dd if=/dev/da9 of=/dev/null", 1)).toContain(
        "dd: /dev/da9: No such file or directory\n",
      );
      expect(await run("gpart show da9", 1)).toBe("gpart: No such geom: da9.\n");
      expect(await run("diskinfo -v da9", 1)).toBe("diskinfo: da9: No such file or directory\n");
      expect(await run("camcontrol tur da9", 1)).toContain("cam_lookup_pass");
      expect(await run("kldload hv_storvsc", 1)).toBe(
        "kldload: can't load hv_storvsc: module already loaded or in kernel\n",
      );
      expect(await run("kldload hv_nope", 1)).toBe(
        "kldload: can't load hv_nope: No such file or directory\n",
      );
      expect(await run("dd bs=1m", 1)).toContain("usage: dd");
      expect(await run("dd if=/dev/zero of=/dev/da1 bs=1000", 1)).toContain("multiple of 512");
      expect(await run("dd if=/dev/zero of=/dev/da1 seek=16382 count=10", 1)).toMatch(
        /^dd: \/dev\/da1: end of device\n3\+0 records in\n2\+0 records out\n1024 bytes transferred in /,
      );
      expect(await run("dd if=/dev/zero of=/dev/da1 bs=3m status=none", 1)).toBe(
        "dd: /dev/da1: end of device\n",
      );
    });

    test.each([
      ["camc", ["camcontrol"]],
      ["true && kld", ["kldload", "kldstat", "kldunload"]],
      ["dmesg|gr", ["grep"]],
      ["camcontrol t", ["tur"]],
      ["camcontrol tur d", ["da0", "da1"]],
      ["dd if=/dev/z", ["if=/dev/zero"]],
      ["dd if=/dev/zero of=/dev/da", ["of=/dev/da0", "of=/dev/da1"]],
      ["false; sysctl dev.vmbus.0.v", ["dev.vmbus.0.version"]],
      ["cat /etc/h", ["/etc/hostname"]],
      ["frobnicate /dev/n", ["/dev/null"]],
      ["echo nothing-like-it", []],
    ])("completes %s", async (line, words) => {
      expect(await machine.complete(line)).toEqual(words);
    });

    test("lists files", async () => {
      expect(await run("ls")).toBe("dev  etc  var\n");
      expect(await run("ls -1a /etc")).toBe(".\n..\nhostname\nos-release\nresolv.conf\n");
      expect(await run("ls -d /dev /dev/da0")).toBe("/dev\n/dev/da0\n");
      expect(await run("ls -l", 1)).toContain("ls: illegal option -- l\nusage: ls [-1ad]");
    });

    test("runs pipes, lists and conditions", async () => {
      const result = await machine.exec("false; true && echo yes; false || echo 'no  no' | wc -w");
      expect(result.stdout).toBe("yes\n       2\n");
      expect(result.lists.map(({ status, stdout }) => [status, stdout])).toEqual([
        [1, ""],
        [0, "yes\n"],
        [0, "       2\n"],
      ]);
      expect(await run("echo a | ", 2)).toContain("sh: Syntax error");
      expect(await run("dmesg | grep -c da0")).toMatch(/^[1-9]\d*\n$/);
      expect(await run("echo 'f(x)+|' | grep '(x)+[|]'")).toBe("f(x)+|\n");
      expect(await run("echo abab | grep -q 'c\\|^\\(ab\\)\\{2\\}$'")).toBe("");
      expect(await run("echo abab | grep -Eq 'c|^(ab){2}$'")).toBe("");
      expect(await run("echo abab | grep -F '(ab)'", 1)).toBe("");
    });

    test("stops a command when it is interrupted", async () => {
      const abort = new AbortController();
      const running = machine.exec("cat /dev/zero", {
        signal: abort.signal,
        onStdout: () => abort.abort(),
      });
      expect((await running).status).toBe(130);
      for (const line of ["sha256 /dev/zero", "dd if=/dev/zero of=/dev/null bs=64k status=none"]) {
        const interrupt = new AbortController();
        const endless = machine.exec(line, { signal: interrupt.signal });
        // The guest answers another line meanwhile, so the endless one has begun.
        await run("true");
        interrupt.abort();
        expect((await endless).status).toBe(130);
      }
      expect(await run("echo still here")).toBe("still here\n");
    });
  });

  describe("a guest and its images", () => {
    test("data written before a shutdown is in the image, which is clean and free", async () => {
      const path = join(directory, `${setting}.vhdx`);
      (await createImageFile(path, { format: "vhdx-dynamic", sizeBytes: 64 * 2 ** 20 })).close();
      const machine = await start({ disks: [path] });
      await machine.exec("dd if=/dev/random of=/dev/da0 bs=1m seek=10 count=5 status=none");
      const hash = (await machine.exec("sha256 -q /dev/da0")).stdout;
      const { poweredOff } = await machine.exec("shutdown -p now");
      expect(poweredOff).toBe(true);
      noViolations(machine);
      await expect(machine.exec("true")).rejects.toMatchObject({ code: "ERR_POWERED_OFF" });
      expect(logGuid(path)).toEqual(new Uint8Array(16));
      const again = await start({ disks: [{ kind: "image", path, readOnly: true }] });
      expect((await again.exec("sha256 -q /dev/da0")).stdout).toBe(hash);
      const refused = await again.exec("dd if=/dev/zero of=/dev/da0 count=1");
      expect(refused).toMatchObject({ status: 1 });
      expect(refused.stderr).toContain("dd: /dev/da0: Read-only file system\n");
      expect(again.dmesg).toContain("da0: Write Protected");
      await again.shutdown();
    });
  });
});

test("shutdown -r now asks for a restart", async () => {
  const machine = await boot({ memoryBytes: 64 * 2 ** 20 });
  expect(await machine.exec("shutdown -r now")).toMatchObject({ status: 0, poweredOff: true });
  expect(await machine.ended).toBe("restart");
});

describe.each(["own", "vcpu0"] as const)("a host on %s that misbehaves", (hostThreads) => {
  const boot = (options: BootOptions): Promise<Machine> => bootMachine({ ...options, hostThreads });

  test("late, duplicate and failing completions do not change what is read", async () => {
    const machine = await boot({
      disks: [ram(4)],
      faults: {
        seed: 1,
        faults: [
          { kind: "late-completion", operation: "read", probability: 0.2, delayMs: 3 },
          { kind: "duplicate-completion", operation: "read", probability: 0.2 },
          { kind: "stalled-ring", probability: 0.05, durationMs: 5, device: "scsi" },
        ],
      },
    });
    await machine.exec("dd if=/dev/random of=/dev/da0 bs=64k status=none");
    const first = await machine.exec("sha256 -q /dev/da0");
    const second = await machine.exec("dd if=/dev/da0 bs=4k status=none | sha256");
    expect(second.stdout).toBe(first.stdout);
    noViolations(machine);
    await machine.shutdown();
  });

  test("a medium error reaches the command with its sense data", async () => {
    const machine = await boot({
      disks: [ram(16)],
      faults: {
        faults: [
          {
            kind: "check-condition",
            operation: "write",
            senseKey: 3,
            additionalCode: 3,
            additionalQualifier: 0,
          },
        ],
      },
    });
    const { status, stderr } = await machine.exec("dd if=/dev/zero of=/dev/da0 count=1");
    expect(status).toBe(1);
    expect(stderr).toContain("Input/output error");
    expect(stderr).toMatch(/medium error/i);
    const { channels, workers, faults } = await machine.host.stats();
    expect(faults).toEqual([{ kind: "check-condition", operation: "write", happened: 1 }]);
    const open = channels.filter(({ state }) => state === "open").map(({ relid }) => relid);
    const counted = workers.flat();
    // Components are opened before the controller, in an order of their own.
    expect(new Set(counted.map(({ relid }) => relid))).toEqual(new Set(open));
    expect(counted.at(-1)!.packetsIn).toBeGreaterThan(0);
    expect(counted.at(-1)!.packetsOut).toBe(counted.at(-1)!.packetsIn);
    await machine.shutdown();
  });

  test("a host can begin to misbehave while the guest runs, and stop", async () => {
    const machine = await boot({ disks: [ram(16)] });
    const write = async (): Promise<number> =>
      (await machine.exec("dd if=/dev/zero of=/dev/da0 count=1")).status;
    const protect = {
      ...({ kind: "check-condition", operation: "write", senseKey: 7 } as const),
      ...{ additionalCode: 0x27, additionalQualifier: 0 },
    };
    expect([machine.host.faults, await write()]).toEqual([{ faults: [] }, 0]);
    await machine.host.setFaults({ faults: [protect] });
    expect([machine.host.faults, await write()]).toEqual([{ faults: [protect] }, 1]);
    expect((await machine.host.stats()).faults).toMatchObject([{ happened: 1 }]);
    await machine.host.setFaults({ faults: [] });
    expect([(await machine.host.stats()).faults, await write()]).toEqual([[], 0]);
    noViolations(machine);
    await machine.shutdown();
  });

  test("a controller that is taken away takes its disks along and the guest goes on", async () => {
    const machine = await boot({ disks: [ram(16)] });
    const [controller] = (await machine.host.stats()).controllers;
    const copying = machine.exec("dd if=/dev/zero of=/dev/da0 bs=4k status=none");
    machine.host.rescind(controller!.instanceId);
    expect((await copying).status).toBe(1);
    const { stdout } = await machine.exec("camcontrol devlist; echo alive");
    expect(stdout).toBe("alive\n");
    expect(machine.dmesg.join("\n")).toContain("(da0:storvsc0:0:0:0): Periph destroyed");
    noViolations(machine);
    await machine.shutdown();
  });

  test("a controller that comes back, even while the guest boots, has its old names", async () => {
    let seen: () => void = () => undefined;
    const nextDisk = (): Promise<void> => new Promise((resolve) => (seen = resolve));
    const first = nextDisk();
    const machine = await boot({
      disks: [ram(16)],
      faults: {
        faults: [
          { kind: "rescind", device: "scsi", operation: "inquiry", nth: 2, reofferAfterMs: 0 },
        ],
      },
      onMessage: (line) => {
        if (line.startsWith("da0: 16MB")) seen();
      },
    });
    await first;
    for (const round of [1, 2]) {
      expect((await machine.exec("camcontrol devlist -v")).stdout).toBe(
        "scbus0 on storvsc0 bus 0:\n" +
          "<Msft Virtual Disk 1.0>            at scbus0 target 0 lun 0 (da0,pass0)\n" +
          "scbus-1 on xpt0 bus 0:\n",
      );
      expect((await machine.exec("devinfo | grep -c storvsc")).stdout).toBe("1\n");
      if (round === 2) break;
      const again = nextDisk();
      const [controller] = (await machine.host.stats()).controllers;
      machine.host.rescind(controller!.instanceId, 0);
      await again;
    }
    noViolations(machine);
    await machine.shutdown();
  });

  test("an older host is talked to in its own version", async () => {
    const machine = await boot({
      disks: [ram(16)],
      faults: { faults: [{ kind: "refused-version", version: 0x00030000 as never }] },
    });
    expect((await machine.exec("sysctl -n dev.vmbus.0.version")).stdout).toBe("2.4\n");
    const [refused] = (await machine.host.stats()).faults;
    expect(refused!.happened).toBeGreaterThan(0);
    expect((await machine.exec("sha256 /dev/da0")).status).toBe(0);
    noViolations(machine);
    await machine.shutdown();
  });
});

test.each(["own", "vcpu0"] as const)(
  "an image that is in use, missing, foreign or damaged is refused with its reason (%s)",
  refusesImages,
);

async function refusesImages(hostThreads: HostThreads): Promise<void> {
  const boot = (options: BootOptions): Promise<Machine> => bootMachine({ ...options, hostThreads });
  const path = join(directory, `locked-${hostThreads}.vhdx`);
  const image = await createImageFile(path, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 });
  await expect(boot({ disks: [path] })).rejects.toMatchObject({
    code: "ERR_IMAGE_LOCKED",
    path,
  });
  image.close();
  await expect(boot({ disks: [join(directory, "none.vhdx")] })).rejects.toMatchObject({
    code: "ERR_IMAGE_FILE",
  });
  const raw = join(directory, "raw.img");
  writeFileSync(raw, new Uint8Array(2 ** 20));
  await expect(boot({ disks: [raw] })).rejects.toMatchObject({ code: "ERR_IMAGE_FOREIGN" });
  const damaged = join(directory, "damaged.vhdx");
  const bytes = readFileSync(path);
  bytes.fill(0xff, 192 * 1024, 320 * 1024);
  writeFileSync(damaged, bytes);
  await expect(boot({ disks: [damaged] })).rejects.toThrow(
    /region table.*offset|offset.*region table/is,
  );
  // Nothing of a failed boot keeps the good one.
  (await openImageFile(path)).close();
}

test("disks of several controllers are da0, da1, ... in the order in which they were given", async () => {
  const megabytes = Array.from({ length: 66 }, (_, index) => index + 1);
  const machine = await boot({ disks: megabytes.map(ram) });
  expect(machine.disks.map(({ name, sizeBytes }) => [name, sizeBytes / 2 ** 20])).toEqual(
    megabytes.map((size, index) => [`da${index}`, size]),
  );
  expect((await machine.exec("camcontrol devlist | grep da64,")).stdout).toContain(
    " at scbus1 target 0 lun 0 (da64,pass64)",
  );
  await machine.shutdown();
});

test("whoever asks a machine that goes off gets an answer or hears that it is off", async () => {
  const machine = await boot({ disks: [ram(4)] });
  /** Asks again and again until there is no answer any more. */
  const ask = async (question: () => Promise<unknown>): Promise<unknown> => {
    try {
      for (;;) await question();
    } catch (error) {
      return error;
    }
  };
  const asking = [
    ask(() => machine.complete("c")),
    ask(() => machine.inspect()),
    ask(() => machine.exec("true")),
    ask(() => machine.host.stats()),
  ];
  await machine.shutdown();
  for (const error of await Promise.all(asking))
    expect(error).toMatchObject({ code: "ERR_POWERED_OFF" });
});

test("machines that cannot be are refused", async () => {
  await expect(boot({ cpus: 0 })).rejects.toMatchObject({ code: "ERR_CPUS" });
  await expect(boot({ cpus: 65 })).rejects.toMatchObject({ code: "ERR_CPUS" });
  await expect(boot({ cpus: 1.5 })).rejects.toMatchObject({ code: "ERR_CPUS" });
  await expect(boot({ tunables: { "hw.nope": 1 } })).rejects.toMatchObject({ code: "ERR_TUNABLE" });
  await expect(boot({ memoryBytes: 1000 })).rejects.toMatchObject({ code: "ERR_MEMORY" });
});

describe("a driver module", () => {
  test("of another kernel interface is refused", async () => {
    const other = join(directory, "other.ko");
    writeFileSync(
      other,
      readFileSync(moduleFile, "utf8").replace(
        /(KERNEL_INTERFACE = )1;/,
        (_, start) => `${start}99;`,
      ),
    );
    await expect(boot({ modules: [other] })).rejects.toThrow(
      `${other} is built for kernel interface 99, this kernel has 1`,
    );
  });

  test.each([
    ["that is none", "export const name = 'nonsense';\n", "is not a driver module"],
    ["that is empty", "", "is not a driver module"],
    ["that is no JavaScript", "\u007fELF", "cannot be loaded: SyntaxError"],
    ["that is not one file", "import './more.js';\n", "cannot be loaded: it imports other files"],
    ["that fails", "throw new Error('boom');\n", "cannot be loaded: Error: boom"],
  ])("%s is refused by its name", async (_, content, reason) => {
    const path = join(directory, "nonsense.ko");
    writeFileSync(path, content);
    const loading = boot({ modules: [path] });
    await expect(loading).rejects.toMatchObject({ code: "ERR_BAD_MODULE" });
    await expect(loading).rejects.toThrow(`${path} ${reason}`);
  });

  test("is loaded once, from a file", async () => {
    for (const modules of [[moduleFile, moduleFile], [directory], ["/nowhere.ko"]])
      await expect(boot({ modules })).rejects.toMatchObject({ code: "ERR_MODULE_FILE" });
  });
});
