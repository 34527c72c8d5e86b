import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import type { ControllerConfig, Guid } from "@hyperv-is/hyperv-host";
import { StockLinux, guest, withGuest } from "./stock-linux.js";

const MEGABYTE = 2 ** 20;
const directory = mkdtempSync(join(tmpdir(), "stock-linux-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const start = { bootedOnce: join(directory, "booted") };

const CONTROLLER = "5107a9e0-0000-4000-8000-000000000001";
const HEARTBEAT = "fd149e91-82e0-4a7d-afa6-2a4166cbd7c0";
const SHUTDOWN = "b6650ff7-33bc-4840-8048-e0676786f393";

const controller = (...paths: string[]): ControllerConfig => ({
  instanceId: CONTROLLER,
  disks: [
    {
      path: 0,
      target: 0,
      lun: 0,
      source: { kind: "ram", sizeBytes: 64 * MEGABYTE, identity: new Uint8Array(16).fill(0x5a) },
    },
    ...paths.map((path, index) => ({
      ...{ path: 0, target: 0, lun: index + 1 },
      source: { kind: "image", path } as const,
    })),
  ],
});

/** Waits, in the guest, for a condition of its shell; fails when it does not come in half a minute. */
async function until(linux: StockLinux, condition: string): Promise<void> {
  const loop = `n=0; until ${condition}; do n=$((n+1)); [ $n -lt 300 ] || exit 1; usleep 100000; done`;
  const { status } = await linux.run(loop);
  if (status !== 0)
    throw new Error(`never: ${condition}\n${(await linux.run("dmesg | tail -60")).output}`);
}

withGuest("devices that are taken away under load come back", { timeout: 600_000 }, async () => {
  await using linux = await StockLinux.boot({
    ...start,
    controllers: [controller()],
    modules: ["bus", "storage", "services"],
  });
  const { host } = linux.pc;
  // The kernel itself complains of a task that hangs; looked for in its log below.
  await linux.output("echo 10 > /proc/sys/kernel/hung_task_timeout_secs");
  const before = await linux.devices();
  /** Resolves when the guest has a device of that name that is another than before, with its driver. */
  const comeBack = async (instanceId: Guid, rescind: () => boolean) => {
    const device = `/sys/bus/vmbus/devices/${instanceId}/`;
    const inode = await linux.output(`stat -c %i ${device}`);
    expect(rescind()).toBe(true);
    await until(linux, `[ -e ${device}driver ] && [ "$(stat -c %i ${device})" != ${inode} ]`);
  };
  await linux.output(
    "(while dd if=/dev/zero of=/dev/sda bs=64k count=500 oflag=direct; do :; done; touch /tmp/ended) " +
      ">/tmp/load 2>&1 &",
  );
  for (const instanceId of [HEARTBEAT, SHUTDOWN] as const)
    await comeBack(instanceId, () => host.rescind(instanceId, 500));

  // The disk goes while it is written to, its controller after it: in that order, since Linux waits for ever
  // for commands that it gives to a controller that was taken away (drivers/scsi/storvsc_drv.c:
  // storvsc_queuecommand takes -ENODEV of the ring for success, storvsc_eh_timed_out waits on).
  await linux.output("[ ! -e /tmp/ended ]; echo 1 > /sys/block/sda/device/delete");
  await until(linux, "[ -e /tmp/ended ]");
  await comeBack(CONTROLLER, () => host.rescind(CONTROLLER, 500));
  await until(linux, "[ -b /dev/sda ]");
  await linux.output("echo back > /dev/sda; sync; echo 3 > /proc/sys/vm/drop_caches");
  expect(await linux.output("head -c 4 /dev/sda")).toBe("back");
  expect(await linux.devices()).toEqual(before);
  await linux.output("sleep 12");
  await linux.kernelLog();
  expect(linux.unexplained).toEqual([]);
});

withGuest(
  "a kernel that starts another one unloads the bus, and the next one has it",
  { timeout: 600_000, peers: ["mkfs.ext4", "qemu-img"] },
  async () => {
    const raw = join(directory, "boot.raw");
    const content = join(directory, "boot");
    mkdirSync(content);
    copyFileSync(guest!.kernel, join(content, "vmlinuz"));
    copyFileSync(guest!.initrd, join(content, "initrd.img"));
    writeFileSync(raw, "");
    truncateSync(raw, 48 * MEGABYTE);
    execFileSync("mkfs.ext4", ["-q", "-d", content, raw]);
    const image = join(directory, "boot.vhdx");
    execFileSync("qemu-img", ["convert", "-f", "raw", "-O", "vhdx", raw, image]);

    await using linux = await StockLinux.boot({ ...start, controllers: [controller(image)] });
    const before = await linux.devices();
    await linux.output("mount -t ext4 -o ro /dev/sdb /mnt || mount -t ext4 -o ro /dev/sda /mnt");
    await linux.output("kexec -l /mnt/vmlinuz --initrd=/mnt/initrd.img --reuse-cmdline");
    await linux.output("umount /mnt");
    await linux.kernelLog();
    const { messagesIn } = linux.pc.host.stats();
    await linux.restart("kexec -e");
    expect(linux.pc.resets).toBe(0);
    expect(linux.pc.host.stats().messagesIn).toBeGreaterThan(messagesIn);
    expect(await linux.devices()).toEqual(before);
    expect(await linux.kernelLog()).toContain("Attached SCSI disk");
    expect(linux.unexplained).toEqual([]);
  },
);

withGuest(
  "a guest that its host restarts, and then shuts down, leaves its file system clean",
  { timeout: 600_000, peers: ["mkfs.ext4", "e2fsck", "qemu-img"] },
  async () => {
    const raw = join(directory, "volume.raw");
    writeFileSync(raw, "");
    truncateSync(raw, 32 * MEGABYTE);
    execFileSync("mkfs.ext4", ["-q", raw]);
    const image = join(directory, "volume.vhdx");
    execFileSync("qemu-img", ["convert", "-f", "raw", "-O", "vhdx", raw, image]);
    {
      const disk = {
        ...{ path: 0, target: 0, lun: 0 },
        source: { kind: "image", path: image },
      } as const;
      await using linux = await StockLinux.boot({
        ...start,
        controllers: [{ instanceId: CONTROLLER, disks: [disk] }],
        modules: ["bus", "storage", "services"],
      });
      const ask = async (action: "restart" | "power-off"): Promise<void> => {
        await linux.untilIntegration(({ shutdown }) => shutdown.state === "ready");
        await linux.pc.host.request({ kind: "shutdown", action, force: false, message: "" });
      };
      await linux.output("mount -t ext4 /dev/sda /mnt; echo first > /mnt/written");
      await ask("restart");
      await linux.restarted("a request of the host");
      expect(linux.pc.resets).toBe(1);
      await linux.output("mount -t ext4 /dev/sda /mnt");
      expect(await linux.kernelLog()).not.toContain("recovery complete");
      expect(await linux.output("cat /mnt/written; echo second >> /mnt/written")).toBe("first");
      await ask("power-off");
      expect(await linux.pc.ended).toBe("powered-off");
      expect(linux.unexplained).toEqual([]);
    }
    execFileSync("qemu-img", ["convert", "-f", "vhdx", "-O", "raw", image, raw]);
    expect(execFileSync("e2fsck", ["-n", raw], { encoding: "utf8" })).toContain("clean");
  },
);
