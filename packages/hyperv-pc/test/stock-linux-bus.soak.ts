import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect } from "vitest";
import { standardDevices, type ControllerConfig } from "@hyperv-is/hyperv-host";
import { StockLinux, withGuest } from "./stock-linux.js";

const directory = mkdtempSync(join(tmpdir(), "stock-linux-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Its initrd tells this guest of the bus, and firmware those of the other tests. */
const start = { bootedOnce: join(directory, "booted"), vmbusTable: "initrd" } as const;

const controller: ControllerConfig = {
  instanceId: "5107a9e0-0000-4000-8000-000000000001",
  disks: [
    {
      path: 0,
      target: 0,
      lun: 0,
      source: { kind: "ram", sizeBytes: 16 << 20, identity: new Uint8Array(16).fill(0x5a) },
    },
  ],
};

/** Every version that Linux 6.1 asks for (drivers/hv/connection.c, `vmbus_versions`), as the host counts them. */
const versions = [
  [0x0002_0004, "2.4"],
  [0x0003_0000, "3.0"],
  [0x0004_0000, "4.0"],
  [0x0004_0001, "4.1"],
  [0x0005_0000, "5.0"],
  [0x0005_0001, "5.1"],
  [0x0005_0002, "5.2"],
  [0x0005_0003, "5.3"],
] as const;

/** Classes for which Linux has a driver, with its name. */
const drivers: Readonly<Record<string, string>> = {
  "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f": "hv_storvsc",
  "57164f39-9115-4e78-ab55-382f3bd5422d": "hv_utils",
  "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6": "hv_utils",
  "0e0b6031-5213-4934-818b-38d90ced39db": "hv_utils",
  "9527e630-d0ae-497b-adce-e80ab0175caf": "hv_utils",
  "35fa2e29-ea23-4236-96ae-3a6ebacba440": "hv_utils",
  "34d14be3-dee4-41c8-9ae7-6b174977c192": "hv_utils",
  "f912ad6d-2b17-48ea-bd65-f927a61c7684": "hyperv_keyboard",
};

/**
 * Devices that Linux has a driver for, and that the host offers but does not serve yet: the driver opens the
 * channel, asks for a protocol version, hears nothing, closes it and gives up with -110 (timed out).
 */
const unserved: Readonly<Record<string, string>> = {
  // drivers/hid/hid-hyperv.c, mousevsc_connect_to_vsp
  "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a": "hid_hyperv",
  // drivers/gpu/drm/hyperv/hyperv_drm_proto.c, hyperv_negotiate_version
  "da0a7802-e377-4aac-8e77-0558eb1073f8": "hyperv_drm",
  // drivers/hv/hv_balloon.c, balloon_connect_vsp
  "525074dc-8985-46e2-8057-a307dc18a502": "hv_balloon",
};

const offers = [
  ...standardDevices(0).map(({ classId, instanceId }) => ({ classId, instanceId })),
  { classId: "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", instanceId: controller.instanceId },
].sort((one, other) => (one.instanceId < other.instanceId ? -1 : 1));

describe("a stock Linux guest negotiates what the host's ceiling says", () => {
  for (const [ceiling, version] of versions)
    withGuest(`version ${version}`, { timeout: 600_000 }, async () => {
      await using linux = await StockLinux.boot({
        ...start,
        controllers: [controller],
        bus: { versions: versions.map(([known]) => known).filter((known) => known <= ceiling) },
      });
      const log = await linux.kernelLog();
      expect(log).toContain(`hv_vmbus: Vmbus version:${version}`);
      expect(linux.pc.host.stats()).toMatchObject({ state: "connected", version });
      // Each version has signals and interrupts of its own: data go both ways.
      expect(await linux.output("echo one line > /dev/sda; head -c 8 /dev/sda")).toBe("one line");
      expect(linux.unexplained).toEqual([]);
    });
});

withGuest(
  "a stock Linux guest sees every offer, and binds what it has a driver for",
  {
    timeout: 600_000,
  },
  async () => {
    await using linux = await StockLinux.boot({
      ...start,
      controllers: [controller],
      modules: ["bus", "storage", "network", "services", "desktop", "memory", "sockets"],
    });
    const devices = await linux.devices();
    expect(devices.map(({ classId, instanceId }) => ({ classId, instanceId }))).toEqual(offers);
    for (const { classId, driver } of devices)
      expect([classId, driver]).toEqual([classId, drivers[classId]]);
    const log = await linux.kernelLog();
    expect(log).toMatch(/ACPI: Table Upgrade: install \[SSDT-HVIS *-VMBUSTBL\]/);
    const failed = [...log.matchAll(/probe failed for device (\S+) \((-\d+)\)/g)].map(
      ([, instanceId = "", code]) => [
        offers.find((offer) => offer.instanceId === instanceId)?.classId,
        code,
      ],
    );
    expect(failed.sort()).toEqual(
      Object.keys(unserved)
        .map((classId) => [classId, "-110"])
        .sort(),
    );
    expect(linux.unexplained).toEqual([]);
  },
);
