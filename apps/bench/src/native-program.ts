import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, homedir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { BenchmarkError } from "./benchmark.js";

const execute = promisify(execFile);

const FLAGS = ["-O3", "-march=native", "-pthread", "-Wall", "-Wextra"];

/** How to get what builds the peers. */
export const GCC_ADVICE =
  "a peer is a program in C and needs a compiler: install Debian's packages gcc and libc6-dev " +
  "(apt-get install gcc libc6-dev)";

/**
 * Compiles a peer, the source `NAME.c` of `native/`, unless that was done before: the program is kept in the user's cache,
 * under a hash of its source, compiler, flags and processor. Rejects with BenchmarkError when there is no compiler, or it
 * fails.
 *
 * @returns The program's path.
 */
export async function buildNative(name: string): Promise<string> {
  const { resolve } = createRequire(import.meta.url);
  const source = join(dirname(resolve("@hyperv-is/bench/package.json")), "native", `${name}.c`);
  const compiler = await gcc("--version");
  const hash = createHash("sha256")
    .update(readFileSync(source))
    .update(JSON.stringify([compiler, FLAGS, cpus()[0]?.model]))
    .digest("hex");
  const base = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  const directory = join(base, "hyperv-is", "bench");
  const program = join(directory, `${name}-${hash.slice(0, 32)}`);
  if (existsSync(program)) return program;
  mkdirSync(directory, { recursive: true });
  const half = `${program}.${process.pid}`;
  await gcc(...FLAGS, "-o", half, source);
  renameSync(half, program);
  return program;
}

async function gcc(...args: readonly string[]): Promise<string> {
  try {
    return (await execute("gcc", args)).stdout;
  } catch (cause) {
    const { code, stderr = "" } = cause as NodeJS.ErrnoException & { readonly stderr?: string };
    if (code === "ENOENT") throw new BenchmarkError(GCC_ADVICE, { cause });
    // A compiler without the C library's headers is what Debian installs as gcc alone.
    const advice = stderr.includes("No such file or directory") ? `\n${GCC_ADVICE}` : "";
    throw new BenchmarkError(`gcc failed: ${stderr.trim()}${advice}`, { cause });
  }
}
