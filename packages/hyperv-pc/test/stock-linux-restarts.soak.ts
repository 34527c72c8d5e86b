import { expect } from "vitest";
import type { ControllerConfig } from "@hyperv-is/hyperv-host";
import { StockLinux, withGuest } from "./stock-linux.js";

const count = Number(process.env["SOAK_COUNT"] ?? 50);

const controllers: ControllerConfig[] = [0, 1].map((index) => ({
  instanceId: `5107a9e0-0000-4000-8000-00000000000${index}`,
  disks: [0, 1].map((lun) => ({
    ...{ path: 0, target: 0, lun },
    source: {
      kind: "ram",
      sizeBytes: 64 * 2 ** 20,
      identity: new Uint8Array(16).fill(2 * index + lun),
    },
  })),
}));

withGuest(
  `a stock Linux guest restarts ${count} times in a row`,
  { timeout: 24 * 3_600_000 },
  async () => {
    await using linux = await StockLinux.boot({
      controllers,
      modules: ["bus", "storage", "network", "services"],
    });
    const before = await linux.devices();
    const started = performance.now();
    for (let resets = 1; resets <= count; resets++) {
      // Data on the way at the restart: a reset waits for nobody.
      await linux.output("(dd if=/dev/zero of=/dev/sdb bs=64k oflag=direct) >/dev/null 2>&1 &");
      await linux.output(`echo ${resets}. > /dev/sda; sync`);
      await linux.reboot();
      expect(linux.pc.resets).toBe(resets);
      expect(await linux.devices()).toEqual(before);
      await linux.kernelLog();
      const found = await linux.output(
        "for d in sda sdb sdc sdd; do head -c 4 /dev/$d; done | tr -d '\\0'",
      );
      expect(found).toContain(`${resets}.`);
      expect(linux.unexplained).toEqual([]);
      const seconds = (performance.now() - started) / 1000;
      console.log(`${resets} restarts in ${seconds.toFixed(0)} s`);
    }
  },
);
