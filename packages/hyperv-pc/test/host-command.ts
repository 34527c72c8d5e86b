import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

const host = dirname(createRequire(import.meta.url).resolve("@hyperv-is/hyperv-host/package.json"));
const program = join(host, "dist", "bin", "hyperv-host.js");

/** Runs `hyperv-host`, as an administrator does. Rejects with its standard error if it fails. @returns Its JSON. */
export async function hostCommand(...args: readonly string[]): Promise<unknown> {
  const { stdout } = await promisify(execFile)(process.execPath, [program, ...args, "--json"]);
  return JSON.parse(stdout);
}
