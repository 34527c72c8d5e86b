import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import type { EmulatorModule } from "../emulator/emulator-instance.js";
import { PATCH_VERSION } from "../emulator/hooks.js";
import { selfTest } from "../emulator/self-test.js";

/** Where results that can be made again are kept: `$XDG_CACHE_HOME/hyperv-is`, or the same below `~/.cache`. */
export function cacheDirectory(): string {
  return join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "hyperv-is");
}

/**
 * The emulator's module with the hypervisor's hooks, compiled and tested. The first time it is patched,
 * which takes some seconds; then it comes from the user's cache, by the hash of what it was made from.
 *
 * Rejects with `EmulatorError` if the installed emulator is not the one that this package knows.
 */
export async function emulatorModule(directory = cacheDirectory()): Promise<EmulatorModule> {
  const original = await readFile(originalPath());
  const hash = createHash("sha256").update(`${PATCH_VERSION}\n`).update(original).digest("hex");
  const path = join(directory, `v86-${hash.slice(0, 32)}.wasm`);
  // A file that is no module is made again.
  const cached = await readFile(path)
    .then((bytes) => WebAssembly.compile(bytes))
    .catch(() => undefined);
  const module = cached ?? (await WebAssembly.compile(await patched(original, path)));
  await selfTest(module);
  return module;
}

function originalPath(): string {
  const entry = createRequire(import.meta.url).resolve("v86");
  return join(dirname(entry), "v86.wasm");
}

/** Patches the module and keeps it; a cache that cannot be written only costs the time again. */
async function patched(original: Uint8Array, path: string): Promise<Uint8Array> {
  const { patchModule } = await import("../emulator/module-patch.js");
  const bytes = patchModule(original);
  const draft = `${path}.${randomUUID()}`;
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(draft, bytes);
    await rename(draft, path);
  } catch {
    await rm(draft, { force: true }).catch(() => undefined);
  }
  return bytes;
}
