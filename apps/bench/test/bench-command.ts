import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const root = dirname(createRequire(import.meta.url).resolve("@hyperv-is/bench/package.json"));

/** How a command ended, and what it printed. */
interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the built `bench` command, and waits for its end. */
export const bench = (...args: string[]): Ended => benchWith({}, ...args);

/** The same, with variables of its environment; one that does not end within `timeoutMs` has no status. */
export const benchWith = (
  { env = {}, timeoutMs }: { readonly env?: NodeJS.ProcessEnv; readonly timeoutMs?: number },
  ...args: string[]
): Ended =>
  spawnSync(process.execPath, [join(root, "dist", "index.js"), ...args], {
    encoding: "utf8",
    env: { ...process.env, ...env },
    timeout: timeoutMs,
  });

/** Options with which a benchmark is over at once, and its figures mean nothing. */
export const SHORT = ["--runs", "1", "--round-ms", "5", "--wait-s", "0"];
