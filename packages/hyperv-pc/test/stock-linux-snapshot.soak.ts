import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect } from "vitest";
import { scsiControllerId, type ControllerConfig } from "@hyperv-is/hyperv-host";
import { READY, StockLinux, withGuest } from "./stock-linux.js";

const MEGABYTE = 2 ** 20;
let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "hyperv-pc-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const ramDisk = (): ControllerConfig[] => [
  {
    instanceId: scsiControllerId(0),
    disks: [
      {
        path: 0,
        target: 0,
        lun: 0,
        source: { kind: "ram", sizeBytes: 64 * MEGABYTE, identity: new Uint8Array(16).fill(7) },
      },
    ],
  },
];

describe("a snapshot of the stock guest", () => {
  withGuest(
    "starts it again in a moment, with its drivers, its disk and its connection",
    { timeout: 300_000 },
    async () => {
      const options = {
        controllers: ramDisk(),
        snapshot: { path: join(directory, "snapshot"), at: READY },
      };
      await using first = await StockLinux.boot(options);
      expect(first.pc.isRestored).toBe(false);
      await first.output("echo before > /run/file; dd if=/dev/zero of=/dev/sda bs=1M count=1");
      const violations = first.pc.host.violations.length;

      await using second = await StockLinux.boot({ ...options, controllers: ramDisk() });
      expect(second.pc.isRestored).toBe(true);
      const stats = second.pc.host.stats();
      expect(stats.version).toBe("5.3");
      expect(stats.channels.filter(({ state }) => state === "open").length).toBeGreaterThan(0);
      // What the first did after it was saved has not happened here.
      expect((await second.run("cat /run/file")).status).not.toBe(0);
      // Disk, bus and clock go on.
      await second.output("dd if=/dev/urandom of=/dev/sda bs=64k count=64 && sync");
      const hash = "dd if=/dev/sda bs=64k count=64 iflag=direct 2>/dev/null | sha256sum";
      const written = await second.output(hash);
      expect(await second.output(hash)).toBe(written);
      const [uptime] = (await second.output("cat /proc/uptime")).split(" ");
      expect(Number(uptime)).toBeGreaterThan(1);
      expect(second.pc.host.rescind(scsiControllerId(0))).toBe(true);
      await second.output("while [ -e /sys/block/sda ]; do usleep 10000; done");
      expect(second.pc.host.violations.length).toBe(violations);

      // A file that is cut off is not taken for one.
      const file = readFileSync(options.snapshot.path);
      writeFileSync(options.snapshot.path, file.subarray(0, 1000));
      await expect(StockLinux.boot({ ...options, controllers: ramDisk() })).rejects.toMatchObject({
        code: "ERR_SNAPSHOT",
      });
    },
  );
});
