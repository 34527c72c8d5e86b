import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll } from "vitest";
import type { FailoverReport } from "../src/demo/failover.js";

const root = dirname(
  createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
);
const program = join(root, "dist", "bin", "guest-kernel.js");
const directory = mkdtempSync(join(tmpdir(), "failover-test-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** What a run has left: temporary files, and processes that were told of such by their command lines. */
export interface FailoverRest {
  readonly files: readonly string[];
  readonly processes: readonly number[];
}

/** Processes that have a path of the demo's in their command lines, and a word. */
export function demoProcesses(word = ""): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "latin1");
        return line.includes(directory) && line.includes(word);
      } catch {
        // It has ended meanwhile.
        return false;
      }
    });
}

/** Runs the demo. @param heard - Gets standard output so far, and what sends the program a signal. */
export async function runFailoverDemo(
  args: readonly string[],
  heard: (stdout: string, kill: (signal: NodeJS.Signals) => void) => void = () => undefined,
): Promise<{ status: number | null; stdout: string; stderr: string; rest: FailoverRest }> {
  const child = spawn(process.execPath, [program, "demo", "failover", ...args], {
    env: { ...process.env, TMPDIR: directory },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    heard(stdout, (signal) => child.kill(signal));
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const [status] = (await once(child, "close")) as [number | null];
  const rest = { files: readdirSync(directory), processes: demoProcesses() };
  return { status, stdout, stderr, rest };
}

/** Runs the demo to its end. Throws if it fails or leaves anything. */
export async function failover(...args: readonly string[]): Promise<FailoverReport> {
  const { status, stdout, stderr, rest } = await runFailoverDemo([...args, "--json"]);
  if (status !== 0 || stderr !== "") throw new Error(`status ${status}: ${stderr}`);
  if (rest.files.length + rest.processes.length > 0)
    throw new Error(`left over: ${JSON.stringify(rest)}`);
  return JSON.parse(stdout) as FailoverReport;
}
