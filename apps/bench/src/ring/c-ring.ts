import { execFile, type ExecFileException } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, homedir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { BenchmarkError } from "../benchmark.js";
import type { RingRound } from "./ring-end.js";

const execute = promisify(execFile);

const FLAGS = ["-O3", "-march=native", "-pthread", "-Wall", "-Wextra"];

/** How to get what builds the peer. */
export const GCC_ADVICE =
  "the ring's peer is written in C, and its compiler is missing: install the Debian packages gcc and libc6-dev " +
  "(apt-get install gcc libc6-dev)";

/** The peer of the ring benchmark: a ring by the same rules in C, two threads of a process of its own. */
export class CRing {
  readonly #program: string;
  readonly #ringDataBytes: number;

  private constructor(program: string, ringDataBytes: number) {
    this.#program = program;
    this.#ringDataBytes = ringDataBytes;
  }

  /**
   * Compiles the peer, unless that was done before: the program is kept in the user's cache under a hash of
   * its source, compiler, flags and processor.
   * Rejects with BenchmarkError when there is no compiler, or it fails.
   */
  static async build(ringDataBytes: number): Promise<CRing> {
    const { resolve } = createRequire(import.meta.url);
    const source = join(dirname(resolve("@hyperv-is/bench/package.json")), "native", "ring.c");
    const compiler = await run("gcc", ["--version"]);
    const hash = createHash("sha256")
      .update(readFileSync(source))
      .update(JSON.stringify([compiler, FLAGS, cpus()[0]?.model]))
      .digest("hex");
    const base = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
    const directory = join(base, "hyperv-is", "bench");
    const program = join(directory, `ring-${hash.slice(0, 32)}`);
    if (!existsSync(program)) {
      mkdirSync(directory, { recursive: true });
      const half = `${program}.${process.pid}`;
      await run("gcc", [...FLAGS, "-o", half, source]);
      renameSync(half, program);
    }
    return new CRing(program, ringDataBytes);
  }

  /** As `RingThreads.send`. */
  async send(round: RingRound): Promise<{ seconds: number; checksum: number }> {
    const numbers = [this.#ringDataBytes, round.payloadBytes, round.batch, round.packets];
    const output = await run(this.#program, numbers.map(String));
    const [seconds = NaN, checksum = NaN] = output.trim().split(" ").map(Number);
    return { seconds, checksum };
  }
}

async function run(program: string, args: readonly string[]): Promise<string> {
  try {
    return (await execute(program, args)).stdout;
  } catch (cause) {
    const { code, stderr = "", message } = cause as ExecFileException;
    if (program === "gcc" && String(code) === "ENOENT")
      throw new BenchmarkError(GCC_ADVICE, { cause });
    const reason = stderr.trim() === "" ? message : stderr.trim();
    const advice = reason.includes("No such file or directory") ? `\n${GCC_ADVICE}` : "";
    throw new BenchmarkError(`${program} failed: ${reason}${advice}`, { cause });
  }
}
