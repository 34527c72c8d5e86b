import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { BenchmarkError } from "../benchmark.js";
import { buildNative } from "../native-program.js";
import type { RingRound } from "./ring-end.js";

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

  /** Starts the peer. Rejects as `buildNative` does. */
  static async start(ringDataBytes: number): Promise<CRing> {
    return new CRing(await buildNative("ring"), ringDataBytes);
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
