import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import {
  networkAdapterId,
  parseMac,
  standardDevices,
  type ControllerConfig,
  type DiskConfig,
  type Guid,
} from "@hyperv-is/hyperv-host";
import { openDiskImage, readTraceFile } from "@hyperv-is/hyperv-host/node";
import { TraceDecoder, readTrace } from "@hyperv-is/hyperv-host/trace";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import {
  FIRST,
  FreeBsdGuest,
  PROMPT,
  SECOND,
  freeBsdImages,
  freeBsdRemedy,
} from "./freebsd-guest.js";
import { GUEST_ADDRESS, NetworkPeer, PEER_ADDRESS } from "./network-peer.mjs";

const BOOT_MS = 300_000;
const MEGABYTE = 2 ** 20;

/** Devices that a FreeBSD says its bus found: `storvsc0: <Hyper-V SCSI> on vmbus0`; each kind once, sorted. */
function attached(log: string): { readonly driver: string; readonly description: string }[] {
  const found = Array.from(log.matchAll(/^(\w+?)\d+: <([^>]+)> on vmbus0\r*$/gm), (match) => ({
    driver: match[1]!,
    description: match[2]!,
  }));
  return [...new Map(found.map((device) => [device.driver, device])).values()].sort(byDriver);
}

const byDriver = (a: { driver: string }, b: { driver: string }): number =>
  a.driver < b.driver ? -1 : 1;

/** What a kernel without hvhid, as the one of the log, attaches of the devices that every machine has, and of disks. */
const expected = Object.values(DeviceClass)
  .filter(({ classId }) => {
    const offers = [...standardDevices(0), { classId: DeviceClass.scsi.classId }];
    return (
      classId !== DeviceClass.mouse.classId && offers.some((offer) => offer.classId === classId)
    );
  })
  .flatMap(({ freebsd }) => (freebsd === undefined ? [] : [freebsd]))
  .sort(byDriver);

/** The NAA identifier of a disk: Hyper-V's prefix, then the first and the last six bytes of its identity. @param identity - hexadecimal digits. */
const lunId = (identity: string): string =>
  `60022480${identity.slice(0, 12)}${identity.slice(-12)}`;

/** What GEOM says of each disk, by its name. @param log - with `kern.geom.confxml` in it. */
function disks(log: string): ReadonlyMap<string, { sizeBytes: number; lunId: string | undefined }> {
  const providers = log.matchAll(
    /<name>(da\d+)<\/name>\s+<mediasize>(\d+)<\/mediasize>(.*?)<\/provider>/gs,
  );
  return new Map(
    Array.from(providers, ([, name = "", size, rest = ""]) => [
      name,
      { sizeBytes: Number(size), lunId: /<lunid>(\w+)<\/lunid>/.exec(rest)?.[1] },
    ]),
  );
}

describe("the recorded session of a FreeBSD", () => {
  const log = readFileSync(new URL("fixtures/freebsd/boot.txt", import.meta.url), "latin1");
  const boots = log.split("---<<BOOT>>---").slice(1);
  const traces = new URL("../../hyperv-host/test/traces/", import.meta.url);
  const { records } = readTrace(
    readTraceFile(fileURLToPath(new URL("freebsd-storage.trace.gz", traces))),
  );
  const provenance = JSON.parse(
    readFileSync(new URL("freebsd-storage.json", traces), "utf8"),
  ) as RecordedSession;

  test("has two boots, in the log and in the trace", () => {
    expect(boots).toHaveLength(2);
    const decoder = new TraceDecoder();
    const names = records.map((record) => decoder.decode(record).name);
    expect(names.filter((name) => name === "INITIATE_CONTACT")).toHaveLength(2);
    for (const boot of boots) expect(boot).toContain("vmbus0: version 4.0");
  });

  test("names drivers and devices as the table of classes does", () => {
    expect(expected).toHaveLength(7);
    for (const boot of boots) expect(attached(boot)).toEqual(expected);
  });

  test("has the host's disks, with their sizes and identities", () => {
    const recorded = provenance.host.controllers.flatMap((controller) => controller.disks);
    expect([...disks(log)].sort()).toEqual(
      recorded.map(({ sizeBytes, identity }, unit) => [
        `da${unit}`,
        { sizeBytes, lunId: lunId(identity) },
      ]),
    );
  });

  test("reads in the second boot what the first wrote", () => {
    const [written, readBack] = boots.map((boot) => sha256After(boot, "hash /mnt/a"));
    expect(written).toBe(sha256After(log, "write /mnt/a"));
    expect(readBack).toBe(written);
  });

  test("has in its trace the bytes whose hash is in its log", () => {
    const decoder = new TraceDecoder();
    const channels = new Map<number, Guid>();
    const hash = createHash("sha256");
    for (const record of records) {
      const { fields } = decoder.decode(record);
      if (record.kind === "channel-opened") channels.set(record.channel, record.instanceId);
      const isWrite = record.kind === "packet" && String(fields["command"]).startsWith("WRITE(");
      if (isWrite && channels.get(record.channel) === SECOND && fields["lun"] === "0:0:0")
        hash.update(record.data!.bytes);
    }
    expect(hash.digest("hex")).toBe(sha256After(log, "write /dev/da1"));
  });
});

describe("the recorded session of a FreeBSD with a network adapter", () => {
  const log = readFileSync(new URL("fixtures/freebsd/network.txt", import.meta.url), "latin1");

  test("has hn0, with the address that the host gave it", () => {
    const { freebsd } = DeviceClass.network;
    expect(attached(log)).toContainEqual(freebsd);
    expect(log).toMatch(/^hn0: Ethernet address: 00:15:5d:00:00:00\r*$/m);
    expect(log).toMatch(/^ether 00:15:5d:00:00:00\r*\nstatus active\r*$/m);
    expect(log).toContain("deviceid=f8615163-0000-4000-8000-000000000000");
  });

  test("sends and receives, before and after its adapter was taken away", () => {
    const received = Array.from(
      log.matchAll(/^received (\d+)\r*\nok ping\r*$/gm),
      ([, count]) => count,
    );
    expect(received).toEqual(["2", "1", "1", "2"]);
    expect(log.match(/hn0: (?:detached|link state changed to \w+)/g)).toEqual([
      "hn0: link state changed to UP",
      "hn0: link state changed to DOWN",
      "hn0: link state changed to UP",
      "hn0: detached",
      "hn0: link state changed to UP",
    ]);
  });
});

describe("the recorded session of a FreeBSD with its host's integration components", () => {
  const log = readFileSync(new URL("fixtures/freebsd/services.txt", import.meta.url), "latin1");

  test("attaches KVP and VSS, whose devices can be opened", () => {
    const { kvp, vss } = DeviceClass;
    expect(attached(log)).toEqual(expect.arrayContaining([kvp.freebsd, vss.freebsd]));
    expect(log.match(/^ok hold\r*$/gm)).toHaveLength(2);
  });

  test("sets its clock when it is told to, and when it is told that it is off", () => {
    const [before = 0, set = 0, corrected = 0] = Array.from(
      log.matchAll(/^seconds (\d+)\r*\nok date\r*$/gm),
      ([, seconds]) => Number(seconds),
    );
    const daySeconds = 86_400;
    expect(Math.abs(set - before - daySeconds)).toBeLessThan(30);
    expect(Math.abs(corrected - set + daySeconds)).toBeLessThan(30);
  });

  test("refuses a restart, and is shut down by its host", () => {
    expect(log).toMatch(
      /hvshutdown0: unknown shutdown flags 0x00000002.*hvshutdown0: shutdown requested.*stopping/s,
    );
  });
});

/** What the provenance of a trace says of its host. */
interface RecordedSession {
  readonly host: {
    readonly controllers: readonly {
      readonly disks: readonly { readonly sizeBytes: number; readonly identity: string }[];
    }[];
  };
}

/** The hash that a command of the guest printed. */
function sha256After(log: string, command: string): string | undefined {
  return new RegExp(`${command} .*?sha256 (\\w+)`, "s").exec(log)?.[1];
}

const images = freeBsdImages();

// Nobody can have these images from us: where there are none, CI included, the session above stands for them.
if (images === undefined) console.info(`A real FreeBSD is not tested: ${freeBsdRemedy}`);
else
  describe("a FreeBSD with its own drivers", () => {
    const ram = (lun: number, fill: number, options: object = {}): DiskConfig => ({
      ...{ path: 0, target: 0, lun },
      source: {
        kind: "ram",
        sizeBytes: 16 * MEGABYTE,
        identity: new Uint8Array(16).fill(fill),
        ...options,
      },
    });
    const second = (...disks: DiskConfig[]): ControllerConfig => ({ instanceId: SECOND, disks });

    test("attaches what it has drivers for, and breaks no rule", { timeout: BOOT_MS }, async () => {
      await using guest = new FreeBsdGuest(images);
      const log = await guest.boot();
      expect(log).toContain("vmbus0: version 4.0");
      expect(attached(log)).toEqual(expect.arrayContaining(expected));
      await guest.powerOff();
      expect(guest.pc.host.violations).toEqual([]);
    });

    test(
      "beats, follows the host's clock, agrees on key-value pairs and VSS, and is shut down",
      { timeout: BOOT_MS },
      async () => {
        await using guest = new FreeBsdGuest(images);
        await guest.boot();
        const { host, serial } = guest.pc;
        const beating = await guest.untilIntegration(({ heartbeat }) => heartbeat.answered >= 2);
        expect(beating.heartbeat).toMatchObject({
          messageVersion: "3.0",
          status: "OkApplicationsUnknown",
          missed: 0,
        });

        // Told to set its clock it does; told the time only, it does when that is more than hw.hvtimesync.sample_thresh off.
        for (const [offsetMs, sync] of [
          [86_400_000, true],
          [3_600_000, false],
        ] as const) {
          const { syncs, samples } = host.stats().integration!.timeSync;
          await host.request({ kind: "time", offsetMs, sync });
          await guest.untilIntegration(({ timeSync }) =>
            sync ? timeSync.syncs > syncs : timeSync.samples > samples + 1,
          );
          const seconds = Number(await guest.ask("date", "seconds"));
          expect(Math.abs(seconds - (Date.now() + offsetMs) / 1000)).toBeLessThan(3);
        }

        // Both drivers answer once a daemon has come.
        const { kvp, vss } = host.stats().integration!;
        expect([kvp.state, vss.state]).toEqual(["negotiating", "negotiating"]);
        await guest.must("hold /dev/hv_kvp_dev 4");
        await guest.must("hold /dev/hv_fsvss_dev");
        const agreed = await guest.untilIntegration(
          (stats) => stats.kvp.state === "ready" && stats.vss.state === "ready",
        );
        expect(agreed).toMatchObject({
          timeSync: { messageVersion: "4.0", refused: 0 },
          kvp: { frameworkVersion: "3.0", messageVersion: "4.0" },
          vss: { frameworkVersion: "3.0", messageVersion: "5.0" },
          shutdown: { messageVersion: "3.0" },
        });

        const ask = (action: "power-off" | "restart"): Promise<unknown> =>
          host.request({ kind: "shutdown", action, force: false, message: "" });
        // Its version 3.0 knows no restart.
        await expect(ask("restart")).rejects.toMatchObject({ code: "ERR_GUEST_REFUSED" });
        await ask("power-off");
        expect(await guest.pc.ended).toBe("powered-off");
        expect(serial.transcript).toContain("hvshutdown0: shutdown requested");
        expect(host.violations).toEqual([]);
      },
    );

    test(
      "sees each disk on its controller, with its size and identity",
      { timeout: BOOT_MS },
      async () => {
        await using guest = new FreeBsdGuest(images);
        const image = await openDiskImage(guest.rootImage, true);
        const { sizeBytes } = image;
        const rootIdentity = Buffer.from(image.identity).toString("hex");
        image.close();
        await guest.boot([
          second(
            ram(0, 0x41, { sizeBytes: 24 * MEGABYTE }),
            ram(3, 0x42, { logicalSectorBytes: 4096 }),
            ram(5, 0x43, { readOnly: true }),
          ),
        ]);
        for (const [unit, instanceId] of [FIRST, SECOND].entries())
          expect((await guest.must(`get dev.storvsc.${unit}.%pnpinfo`)).join("\n")).toContain(
            `classid=${DeviceClass.scsi.classId} deviceid=${instanceId}`,
          );
        const geom = (await guest.must("get kern.geom.confxml")).join("\n");
        expect([...disks(geom)].sort()).toEqual([
          ["da0", { sizeBytes, lunId: lunId(rootIdentity) }],
          ["da1", { sizeBytes: 24 * MEGABYTE, lunId: lunId("41".repeat(16)) }],
          ["da2", { sizeBytes: 16 * MEGABYTE, lunId: lunId("42".repeat(16)) }],
          ["da3", { sizeBytes: 16 * MEGABYTE, lunId: lunId("43".repeat(16)) }],
        ]);
        expect(await guest.ask("disk /dev/da1", "sector")).toBe("512");
        expect(await guest.ask("disk /dev/da2", "sector")).toBe("4096");
        // EROFS
        expect(await guest.run("write /dev/da3 0 4096 1")).toMatchObject({ errno: 30 });
        await guest.must("hash /dev/da3 0 4096");
        expect(guest.pc.host.violations).toEqual([]);
      },
    );

    test(
      "keeps what it wrote, over a restart and a power off",
      { timeout: 3 * BOOT_MS },
      async () => {
        await using guest = new FreeBsdGuest(images);
        await guest.boot();
        await guest.must("remount / rw");
        const written = await guest.ask("write /mnt/data 0 8000000 7", "sha256");
        await guest.must("sync");
        guest.pc.serial.write("reboot\n");
        await guest.pc.serial.waitFor("hvis: init is up");
        await guest.pc.serial.waitFor("hvis> ");
        expect(guest.pc.resets).toBe(1);
        expect(await guest.ask("hash /mnt/data 0 8000000", "sha256")).toBe(written);
        await guest.powerOff();
        expect(guest.pc.host.violations).toEqual([]);
        await guest.boot();
        expect(await guest.ask("hash /mnt/data 0 8000000", "sha256")).toBe(written);
        expect(guest.pc.host.violations).toEqual([]);
      },
    );

    test(
      "has hn0 at a switch: link, MAC, ping both ways, MTU, taken away and back",
      { timeout: 2 * BOOT_MS },
      async () => {
        const nic = networkAdapterId(0);
        const mac = "00:15:5d:0a:01:02";
        await using guest = new FreeBsdGuest(images);
        const log = await guest.boot([], {
          network: {
            switches: [{ name: "lan" }],
            adapters: [{ instanceId: nic, switch: "lan", mac: parseMac(mac)!, subChannelsMax: 3 }],
          },
        });
        expect(log).toMatch(/^hn0: <Hyper-V Network Interface> on vmbus0\r*$/m);
        expect(log).toMatch(new RegExp(`^hn0: Ethernet address: ${mac}\r*$`, "m"));
        const { host } = guest.pc;
        const peer = new NetworkPeer(host.switches.get("lan")!);
        const link = (): Promise<string> => guest.ask("interface hn0", "status");
        const pingPeer = (count: number, bytes: number): Promise<string> =>
          guest.ask(`ping ${PEER_ADDRESS} ${count} ${bytes}`, "received");
        const bringUp = (): Promise<unknown> =>
          guest.must(`address hn0 ${GUEST_ADDRESS} 255.255.255.0`);
        await bringUp();
        expect(await guest.ask("interface hn0", "ether")).toBe(mac);
        expect(await link()).toBe("active");
        expect(await pingPeer(3, 56)).toBe("3");
        expect(await pingPeer(1, 1400)).toBe("1");
        await peer.ping(1);
        await peer.ping(2, 1400);

        const { serial } = guest.pc;
        for (const [isLinkUp, state, status] of [
          [false, "DOWN", "no carrier"],
          [true, "UP", "active"],
        ] as const) {
          host.changeAdapter(nic, { isLinkUp });
          await serial.waitFor(`hn0: link state changed to ${state}`);
          expect(await link()).toBe(status);
        }
        await guest.must("mtu hn0 9000");
        expect(await guest.ask("interface hn0", "mtu")).toBe("9000");
        expect(await pingPeer(2, 8000)).toBe("2");
        await peer.ping(3, 8000);

        host.rescind(nic, 500);
        await serial.waitFor("hn0: detached");
        await serial.waitFor("hn0: link state changed to UP");
        await bringUp();
        expect(await pingPeer(2, 1400)).toBe("2");
        expect(host.stats().adapters).toMatchObject([{ receiveSlotsBusy: 0, transmitErrors: 0 }]);
        expect(host.violations).toEqual([]);
      },
    );

    test(
      "goes on from a snapshot, with its root and its connection",
      { timeout: 2 * BOOT_MS },
      async () => {
        await using guest = new FreeBsdGuest(images);
        const snapshot = { path: `${guest.rootImage}.snapshot`, at: PROMPT };
        await guest.boot([], { snapshot });
        await guest.pc.stop();
        await guest.boot([], { snapshot });
        expect(guest.pc.isRestored).toBe(true);
        await guest.must("remount / rw");
        const written = await guest.ask("write /mnt/data 0 500000 9", "sha256");
        await guest.must("sleep 100");
        expect(await guest.ask("hash /mnt/data 0 500000", "sha256")).toBe(written);
        await guest.powerOff();
        expect(guest.pc.host.violations).toEqual([]);
      },
    );

    test(
      "reports the errors that the host injects, and goes on",
      { timeout: BOOT_MS },
      async () => {
        await using guest = new FreeBsdGuest(images);
        const fault = { kind: "check-condition", device: SECOND, lun: 1 } as const;
        await guest.boot([second(ram(0, 0x51), ram(1, 0x52))], {
          faults: {
            faults: [
              {
                ...fault,
                operation: "read",
                nth: 60,
                senseKey: 3,
                additionalCode: 0x11,
                additionalQualifier: 0,
              },
              {
                ...fault,
                operation: "write",
                nth: 3,
                senseKey: 6,
                additionalCode: 0x29,
                additionalQualifier: 0,
              },
              {
                kind: "late-completion",
                device: SECOND,
                lun: 1,
                operation: "write",
                every: 20,
                delayMs: 200,
              },
            ],
          },
        });
        const disk = "/dev/da2 0 8388608";
        const written = await guest.ask(`write ${disk} 5`, "sha256");
        expect(guest.pc.serial.transcript).toContain("UNIT ATTENTION asc:29,0");
        const failed = await guest.run(`hash ${disk}`);
        // EIO
        expect(failed.errno).toBe(5);
        expect(failed.lines.join("\n")).toContain("MEDIUM ERROR asc:11,0 (Unrecovered read error)");
        expect(await guest.ask(`hash ${disk}`, "sha256")).toBe(written);
        expect(guest.pc.host.violations).toEqual([]);
      },
    );
  });
