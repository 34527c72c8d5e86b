import { expect } from "vitest";
import { scsiControllerId, standardDevices } from "@hyperv-is/hyperv-host";
import { StockLinux, withGuest } from "./stock-linux.js";

/** A share of the campaigns `stock-linux-*`: one boot, as those of users begin. */
withGuest(
  "a stock Linux guest finds what the host offers, and uses its disk",
  { timeout: 240_000 },
  async () => {
    const instanceId = scsiControllerId(0);
    const disk = {
      ...{ path: 0, target: 0, lun: 0 },
      source: { kind: "ram", sizeBytes: 2 << 20, identity: new Uint8Array(16).fill(0x5a) },
    } as const;
    await using linux = await StockLinux.boot({ controllers: [{ instanceId, disks: [disk] }] });
    const devices = await linux.devices();
    const offered = [instanceId, ...standardDevices(0).map((device) => device.instanceId)];
    expect(devices.map((device) => device.instanceId)).toEqual(offered.sort());
    expect(devices.find((device) => device.instanceId === instanceId)?.driver).toBe("hv_storvsc");
    expect(await linux.kernelLog()).toContain("hv_vmbus: Vmbus version:5.3");

    const hash = "dd if=/dev/sda bs=64k iflag=direct 2>/dev/null | sha256sum";
    const before = await linux.output(hash);
    await linux.output("dd if=/dev/urandom of=/dev/sda bs=64k count=16 conv=fsync");
    const written = await linux.output(hash);
    expect(written).not.toBe(before);
    expect(await linux.output(hash)).toBe(written);
    await linux.kernelLog();
    expect(linux.unexplained).toEqual([]);
  },
);
