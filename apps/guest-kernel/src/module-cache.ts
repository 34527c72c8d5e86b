import { createHash } from "node:crypto";
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { BootError } from "./boot-error.js";
import { cacheDirectory } from "./cache-directory.js";
import type { ModuleFile } from "./smp/vcpu.js";

/** Why a file cannot be read, in a user's words. */
const reasons: Readonly<Record<string, string | undefined>> = {
  ENOENT: "no such file",
  EISDIR: "it is a directory, not a module",
  EACCES: "permission denied",
};

/**
 * Makes a module file importable: Node imports no `.ko`, so its content goes to a cache file that is named
 * by its hash. Rejects with `ERR_MODULE_FILE` when the file cannot be read.
 */
export async function cacheModule(path: string): Promise<ModuleFile> {
  let content: Buffer;
  try {
    content = await readFile(path);
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    throw new BootError("ERR_MODULE_FILE", `${path}: ${reasons[code] ?? message}`, {
      cause: error,
    });
  }
  const hash = createHash("sha256").update(content).digest("hex");
  // Names that Node can import; one file per content.
  const directory = join(cacheDirectory(), "modules");
  const importable = join(directory, `${basename(path).replace(/\W+/g, "-")}-${hash}.mjs`);
  const there = await stat(importable).catch(() => undefined);
  if (there?.size !== content.byteLength) {
    await mkdir(directory, { recursive: true });
    const half = `${importable}.${process.pid}`;
    await writeFile(half, content);
    await rename(half, importable);
  }
  return { path, importable, sizeBytes: content.byteLength };
}
