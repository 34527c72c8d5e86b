// What the programs that record sessions of real guests share.
import { Buffer } from "node:buffer";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { formatMac, networkAdapterId, scsiControllerId } from "@hyperv-is/hyperv-host";
import { openDiskImage } from "@hyperv-is/hyperv-host/node";
import { bootPc } from "@hyperv-is/hyperv-pc/node";

/**
 * @typedef {import("@hyperv-is/hyperv-host").ControllerConfig} ControllerConfig
 * @typedef {import("@hyperv-is/hyperv-host").DiskSource} DiskSource
 * @typedef {import("@hyperv-is/hyperv-pc/node").PcMachine} Pc
 */

/** Instance ids of the guest's controllers. */
export const FIRST = scsiControllerId(0);
export const SECOND = scsiControllerId(1);

/** A network with one adapter, at the switch `lan`. */
export const NIC = networkAdapterId(0);
export const network = {
  switches: [{ name: "lan" }],
  adapters: [{ instanceId: NIC, switch: "lan", mac: Uint8Array.of(0x00, 0x15, 0x5d, 0, 0, 0) }],
};

/** A disk in memory, of 4 MiB unless told. @param {number} lun @param {number} fill - of its identity @param {object} [options] */
export const ram = (lun, fill, options = {}) => ({
  ...{ path: 0, target: 0, lun },
  source: {
    kind: /** @type {const} */ ("ram"),
    sizeBytes: 2 ** 22,
    identity: new Uint8Array(16).fill(fill),
    ...options,
  },
});

/** A disk as provenances have it. @param {DiskSource} source */
async function describeDisk(source) {
  if (source.kind === "ram")
    return { ...source, kind: undefined, identity: Buffer.from(source.identity).toString("hex") };
  const image = await openDiskImage(source.path, true);
  const { sizeBytes, logicalSectorBytes, physicalSectorBytes } = image;
  const identity = Buffer.from(image.identity).toString("hex");
  image.close();
  return { sizeBytes, logicalSectorBytes, physicalSectorBytes, identity };
}

/**
 * Boots a guest and records what it is made to do: `NAME.trace.gz`, and its provenance `NAME.json` beside it.
 *
 * @param {object} session
 * @param {string} session.directory
 * @param {string} session.name
 * @param {import("@hyperv-is/hyperv-pc/node").PcOptions} session.boot
 * @param {readonly ControllerConfig[]} session.controllers
 * @param {{ readonly guest: string, readonly version: string, readonly recorded: readonly string[] }} session.provenance
 * @param {(pc: Pc) => Promise<void>} session.play
 * @returns {Promise<string>} What the guest wrote to its console.
 */
export async function record({ directory, name, boot, controllers, provenance, play }) {
  const host = {
    controllers: await Promise.all(
      controllers.map(async ({ instanceId, disks }) => ({
        instanceId,
        disks: await Promise.all(
          disks.map(async ({ source, ...address }) => ({
            ...address,
            ...(await describeDisk(source)),
          })),
        ),
      })),
    ),
    ...(boot.network && {
      adapters: boot.network.adapters.map(({ instanceId, mac }) => ({
        instanceId,
        mac: formatMac(mac),
      })),
    }),
    integration: true,
  };
  const path = join(directory, `${name}.trace`);
  const pc = await bootPc({
    ...boot,
    controllers,
    trace: { path, dataLimitBytes: 2 ** 18 },
    onConsole: (bytes) => void process.stderr.write(bytes),
  });
  await play(pc);
  const { violations, adapters, integration } = pc.host.stats();
  await pc.stop();
  writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
  rmSync(path);
  process.stderr.write(`\n${name}: ${JSON.stringify({ violations, adapters, integration })}\n`);
  const date = new Date().toISOString().slice(0, 10);
  writeProvenance(join(directory, `${name}.json`), { ...provenance, date, host, violations: {} });
  return pc.serial.transcript;
}

/** @param {string} path @param {object} provenance */
export function writeProvenance(path, provenance) {
  writeFileSync(path, `${JSON.stringify(provenance, null, 2)}\n`);
}
