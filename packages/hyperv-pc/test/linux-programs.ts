import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DebianArchive } from "../../../tools/stock-guest/debian.mjs";
import { cachedGuestDirectory } from "../../../tools/stock-guest/location.mjs";

/** Debian's Node, the last for 32 bits, and `ip`, with the libraries that they load. */
const nodePackages = [
  "nodejs",
  "libnode108",
  "node-acorn",
  "node-cjs-module-lexer",
  "node-undici",
  ...["libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libbrotli1", "libc-ares2"],
  ...["libnghttp2-14", "libssl3", "libicu72", "libuv1"],
  "iproute2",
  ...["libbpf1", "libbsd0", "libcap2", "libelf1", "libmd0", "libmnl0"],
  ...["libdb5.3", "libpcre2-8-0", "libselinux1", "libtirpc3", "libxtables12"],
];

/** Packages of ours that `hv-kvp` is made of. */
const ourPackages = ["hv-kvp", "hv-utils", "platform-node", "vmbus-core"];

/** Where the tree has `hv-kvp`. */
export const HV_KVP = "/opt/node_modules/@hyperv-is/hv-kvp/dist/bin/hv-kvp.js";

/**
 * An image for the stock guest, of a tree to `chroot` to: Node and `ip` of Debian, and `hv-kvp` as it was built. What comes
 * from Debian is kept in the user's cache.
 *
 * @param directory - where the image is made.
 * @returns The path of the VHDX.
 */
export function nodeImage(directory: string): string {
  const tree = join(directory, "tree");
  cpSync(debianTree(), tree, { recursive: true, verbatimSymlinks: true });
  for (const name of ["dev", "proc", "sys", "tmp", "var/lib"])
    mkdirSync(join(tree, name), { recursive: true });
  const packages = fileURLToPath(new URL("../..", import.meta.url));
  for (const name of ourPackages)
    for (const part of ["dist", "package.json"])
      cpSync(join(packages, name, part), join(tree, "opt/node_modules/@hyperv-is", name, part), {
        recursive: true,
      });
  const [raw, image] = [join(directory, "node.raw"), join(directory, "node.vhdx")];
  execute("mkfs.ext4", "-q", "-d", tree, raw, "192m");
  execute("qemu-img", "convert", "-f", "raw", "-O", "vhdx", raw, image);
  rmSync(tree, { recursive: true });
  rmSync(raw);
  return image;
}

function debianTree(): string {
  const hash = createHash("sha256").update(nodePackages.join()).digest("hex").slice(0, 16);
  const tree = join(dirname(cachedGuestDirectory()), `node-${hash}`);
  if (existsSync(tree)) return tree;
  mkdirSync(dirname(tree), { recursive: true });
  const work = mkdtempSync(`${tree}.`);
  try {
    const archive = new DebianArchive(work, undefined);
    archive.update();
    const root = archive.unpack(nodePackages.map((name) => archive.find(name)));
    for (const name of ["doc", "man", "locale"])
      rmSync(join(root, "usr/share", name), { recursive: true, force: true });
    renameSync(root, tree);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return tree;
}

function execute(program: string, ...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8" });
  if (status !== 0) throw error ?? new Error(`${program}: ${stderr}`);
}
