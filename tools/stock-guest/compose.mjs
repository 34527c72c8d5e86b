// Composes the guest: a stock kernel, its Hyper-V modules and a few programs, in a folder.
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cpio } from "./cpio.mjs";
import { DebianArchive } from "./debian.mjs";
import { moduleIndex, modulesInLoadOrder } from "./kernel-modules.mjs";
import { readGuest, recipeHash } from "./location.mjs";
import { firmware, guestFiles, kernelMetapackage, moduleGroups } from "./recipe.mjs";

/** @typedef {import("./location.mjs").StockGuestManifest} StockGuestManifest */
/** @typedef {import("./location.mjs").StockGuest} StockGuest */

/**
 * Composes the guest in `directory`, which appears whole or not at all.
 *
 * @param {string} directory - replaced when it is there
 * @param {{ mirror?: string | undefined, progress: (line: string) => void }} options
 * @returns {StockGuest}
 * @throws StockGuestError with the next step
 */
export function composeGuest(directory, { mirror, progress }) {
  mkdirSync(dirname(directory), { recursive: true });
  const work = mkdtempSync(`${directory}.`);
  try {
    progress("Reading the package lists ...");
    const archive = new DebianArchive(join(work, "debian"), mirror);
    archive.update();
    const kernelPackage = archive.dependency(kernelMetapackage, /^linux-image-\d.*-686$/);
    const packages = [kernelPackage, ...Object.keys(guestFiles), firmware.package].map((name) =>
      archive.find(name),
    );
    progress(`Downloading ${packages.map(({ name }) => name).join(", ")} ...`);
    const root = archive.unpack(packages);

    progress("Composing the initrd ...");
    const kernelRelease = kernelPackage.replace("linux-image-", "");
    const modules = modulesInLoadOrder(
      join(root, "lib/modules", kernelRelease),
      Object.values(moduleGroups).flat(),
    );
    const output = join(work, "guest");
    mkdirSync(output);
    /** @type {Record<string, { lengthBytes: number, sha256: string }>} */
    const files = {};
    /** @param {string} name @param {Buffer} content */
    const put = (name, content) => {
      writeFileSync(join(output, name), content);
      files[name] = {
        lengthBytes: content.length,
        sha256: createHash("sha256").update(content).digest("hex"),
      };
    };
    put("vmlinuz", readFileSync(join(root, "boot", `vmlinuz-${kernelRelease}`)));
    // Not compressed: the emulated processor would need seconds to unpack what a disk holds easily.
    put("initrd.img", initrd(root, kernelRelease, modules));
    for (const [from, to] of Object.entries(firmware.files))
      put(to, readFileSync(join(root, from)));
    /** @type {StockGuestManifest} */
    const manifest = {
      recipe: recipeHash(),
      kernelRelease,
      packages,
      modules: modules.map(({ name }) => name),
      files,
    };
    writeFileSync(join(output, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    rmSync(directory, { recursive: true, force: true });
    renameSync(output, directory);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  const guest = readGuest(directory);
  if (guest === undefined) throw new Error(`${directory} vanished while it was composed`);
  return guest;
}

/**
 * @param {string} root - the unpacked packages
 * @param {string} kernelRelease
 * @param {readonly import("./kernel-modules.mjs").KernelModule[]} modules
 */
function initrd(root, kernelRelease, modules) {
  const tree = `lib/modules/${kernelRelease}`;
  /** @param {string} name */
  const own = (name) => readFileSync(new URL(name, import.meta.url));
  return cpio([
    // The kernel opens the console for init before anything is mounted.
    { path: "dev/console", device: [5, 1] },
    ...["proc", "sys", "tmp", "mnt", "run", "root"].map((path) => ({ path })),
    // The daemons make their own folders in the last.
    ...["bin", "sbin", "usr/bin", "usr/sbin", "var/lib"].map((path) => ({ path })),
    { path: "init", content: own("init.sh"), executable: true },
    ...["poweroff", "reboot"].map((name) => ({
      path: `sbin/${name}`,
      content: own("leave.sh"),
      executable: true,
    })),
    { path: "etc/profile", content: own("profile.sh") },
    { path: "etc/passwd", content: Buffer.from("root::0:0:root:/root:/bin/sh\n") },
    { path: "etc/hosts", content: Buffer.from("127.0.1.1 stock.example.org stock\n") },
    { path: "etc/nsswitch.conf", content: Buffer.from("hosts: files\n") },
    ...Object.entries(moduleGroups).map(([group, names]) => ({
      path: `etc/module-groups/${group}`,
      content: Buffer.from(`${names.join("\n")}\n`),
    })),
    ...Object.values(guestFiles).flatMap((files) =>
      Object.entries(files).map(([from, to]) => ({
        path: to,
        content: readFileSync(join(root, from)),
        executable: true,
      })),
    ),
    // Both are asked for by path, init's interpreter before init has made the other names.
    { path: "bin/sh", link: "busybox" },
    { path: "sbin/modprobe", link: "../bin/busybox" },
    ...modules.map(({ path, content }) => ({ path: `${tree}/${path}`, content })),
    ...Object.entries(moduleIndex(modules)).map(([name, text]) => ({
      path: `${tree}/${name}`,
      content: Buffer.from(text),
    })),
  ]);
}
