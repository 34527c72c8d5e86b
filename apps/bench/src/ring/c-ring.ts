import { execFile, spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, homedir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { BenchmarkError } from "../benchmark.js";
import type { RingRound } from "./ring-end.js";

const execute = promisify(execFile);

const FLAGS = ["-O3", "-march=native", "-pthread", "-Wall", "-Wextra"];

/** How to get what builds the peer. */
export const GCC_ADVICE =
  "the peer is a ring in C and needs a compiler: install Debian's packages gcc and libc6-dev " +
  "(apt-get install gcc libc6-dev)";

/** The peer of the ring benchmark: a ring by the same rules in C, between two threads of a process of its own. */
export class CRing {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #complaint = "";

  private constructor(program: string, ringDataBytes: number) {
    this.#process = spawn(program, [String(ringDataBytes)], { stdio: "pipe" });
    const { stdout, stderr } = this.#process;
    stderr!.setEncoding("utf8").on("data", (text: string) => (this.#complaint += text));
    this.#lines = createInterface({ input: stdout! })[Symbol.asyncIterator]();
  }

  /**
   * Starts the peer, and compiles it unless that was done before: the program is kept in the user's cache, under a
   * hash of its source, compiler, flags and processor.
   * Rejects with BenchmarkError when there is no compiler, or it fails.
   */
  static async start(ringDataBytes: number): Promise<CRing> {
    return new CRing(await build(), ringDataBytes);
  }

  /** The process that has the threads. */
  get pid(): number {
    return this.#process.pid!;
  }

  /** As `RingThreads.send`. */
  async send(round: RingRound): Promise<{ seconds: number; checksum: number }> {
    this.#process.stdin!.write(`${round.payloadBytes} ${round.batch} ${round.packets}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new BenchmarkError(`the C ring failed: ${this.#complaint}`);
    const [seconds = NaN, checksum = NaN] = line.value.split(" ").map(Number);
    return { seconds, checksum };
  }

  async close(): Promise<void> {
    const gone = this.#process.exitCode === null ? once(this.#process, "exit") : undefined;
    this.#process.stdin!.end();
    await gone;
  }
}

/** @returns The program. */
async function build(): Promise<string> {
  const { resolve } = createRequire(import.meta.url);
  const source = join(dirname(resolve("@hyperv-is/bench/package.json")), "native", "ring.c");
  const compiler = await gcc("--version");
  const hash = createHash("sha256")
    .update(readFileSync(source))
    .update(JSON.stringify([compiler, FLAGS, cpus()[0]?.model]))
    .digest("hex");
  const base = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  const directory = join(base, "hyperv-is", "bench");
  const program = join(directory, `ring-${hash.slice(0, 32)}`);
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
