import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const root = dirname(createRequire(import.meta.url).resolve("@hyperv-is/bench/package.json"));

/** Runs the built `bench` command, and waits for its end. */
export const bench = (
  ...args: string[]
): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [join(root, "dist", "index.js"), ...args], { encoding: "utf8" });

/** Options with which a benchmark is over at once, and its figures mean nothing. */
export const SHORT = ["--runs", "1", "--round-ms", "5", "--wait-s", "0"];
