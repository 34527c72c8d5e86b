import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { describe } from "vitest";
import { stockGuest } from "../../../tools/stock-guest/location.mjs";

const root = dirname(createRequire(import.meta.url).resolve("@hyperv-is/hyperv-pc/package.json"));
const program = join(root, "dist", "bin", "hyperv-pc.js");

/** SeaBIOS as Debian installs it, or as it lies beside the stock guest. */
const firmware = ["/usr/share/seabios", stockGuest()?.directory].find(
  (one) => one !== undefined && existsSync(join(one, "bios.bin")),
);

/** Tests that boot by firmware. Without it they are skipped, and say what to do; in CI they fail. */
export function describeWithFirmware(name: string, tests: () => void): void {
  if (firmware !== undefined) {
    describe(name, { timeout: 60_000 }, tests);
    return;
  }
  const needs = "needs: apt-get install seabios";
  if (process.env["CI"]) throw new Error(`'${name}' ${needs}`);
  console.log(`skipped: ${name} (${needs})`);
  describe.skip(`${name} (${needs})`, tests);
}

/** `hyperv-pc boot` at work. */
export class BootProgram {
  readonly child;
  stdout = "";
  stderr = "";

  constructor(...args: readonly string[]) {
    const argv = [program, "boot", "--memory", "64M", "--bios", firmware ?? "", ...args];
    this.child = spawn(process.execPath, argv, { stdio: ["pipe", "pipe", "pipe"] });
    this.child.stdout.setEncoding("utf8").on("data", (text: string) => (this.stdout += text));
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
  }

  /** Resolves when standard output has the text. */
  async shows(text: string): Promise<void> {
    while (!this.stdout.includes(text)) await once(this.child.stdout, "data");
  }

  type(text: string): void {
    this.child.stdin.write(text);
  }

  /** @returns The exit status. */
  async status(): Promise<number | null> {
    if (this.child.exitCode === null) await once(this.child, "close");
    return this.child.exitCode;
  }
}
