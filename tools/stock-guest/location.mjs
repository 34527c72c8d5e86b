// Where a composed guest is, for the tool that makes it and for the tests that boot it.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * What `manifest.json` says beside a composed guest.
 *
 * @typedef {{
 *   readonly recipe: string,
 *   readonly kernelRelease: string,
 *   readonly packages: readonly import("./debian.mjs").DebianPackage[],
 *   readonly modules: readonly string[],
 *   readonly files: Readonly<Record<string, { readonly lengthBytes: number, readonly sha256: string }>>,
 * }} StockGuestManifest
 *
 * @typedef {{
 *   readonly directory: string,
 *   readonly kernel: string,
 *   readonly initrd: string,
 *   readonly bios: string,
 *   readonly vgaBios: string,
 *   readonly manifest: StockGuestManifest,
 * }} StockGuest
 */

/** The command that composes the guest, for messages. */
export const composeCommand = "npm run -s stock-guest";

const source = fileURLToPath(new URL(".", import.meta.url));

/** What the guest is made by: every file of this folder. A change of one asks for a new guest. */
export function recipeHash() {
  const hash = createHash("sha256");
  for (const name of readdirSync(source).sort())
    if (!name.endsWith(".md")) hash.update(`${name}\0`).update(readFileSync(join(source, name)));
  return hash.digest("hex").slice(0, 16);
}

/** The folder in the user's cache that the guest of the present recipe belongs in. */
export function cachedGuestDirectory() {
  const named = process.env["XDG_CACHE_HOME"] ?? "";
  const cache = isAbsolute(named) ? named : join(homedir(), ".cache");
  return join(cache, "hyperv-is", "stock-guest", recipeHash());
}

/** @param {string} directory @returns {StockGuest | undefined} the guest that is composed there, if any */
export function readGuest(directory) {
  const manifest = join(directory, "manifest.json");
  if (!existsSync(manifest)) return undefined;
  return {
    directory,
    kernel: join(directory, "vmlinuz"),
    initrd: join(directory, "initrd.img"),
    bios: join(directory, "bios.bin"),
    vgaBios: join(directory, "vgabios-stdvga.bin"),
    manifest: JSON.parse(readFileSync(manifest, "utf8")),
  };
}

/**
 * The guest that tests boot: the folder that HYPERV_IS_STOCK_GUEST names, or the one in the user's cache.
 *
 * @returns {StockGuest | undefined} undefined when it has not been composed: skip, and name `composeCommand`
 */
export function stockGuest() {
  return readGuest(process.env["HYPERV_IS_STOCK_GUEST"] ?? cachedGuestDirectory());
}
