import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { BenchmarkError } from "./benchmark.js";

const execute = promisify(execFile);

/** Runs a peer's program to its end. Rejects with BenchmarkError when it is not there, or fails. */
export async function runPeer(
  command: string,
  args: readonly string[],
  debianPackage: string,
): Promise<string> {
  try {
    return (await execute(command, args, { maxBuffer: 1 << 26 })).stdout;
  } catch (cause) {
    const { code, stderr = "" } = cause as NodeJS.ErrnoException & { readonly stderr?: string };
    if (code === "ENOENT") throw missing(command, debianPackage, cause);
    throw new BenchmarkError(`${command} failed: ${stderr.trim()}`, { cause });
  }
}

/** The first number with dots in what a program says of its version. */
export async function versionOf(command: string, debianPackage: string): Promise<string> {
  const text = await runPeer(command, ["--version"], debianPackage);
  return /\d+(\.\d+)+/.exec(text)?.[0] ?? "of unknown version";
}

function missing(command: string, debianPackage: string, cause: unknown): BenchmarkError {
  return new BenchmarkError(`${command} is not there: apt-get install ${debianPackage}`, { cause });
}
