import { once } from "node:events";
import { createRequire } from "node:module";
import { Worker } from "node:worker_threads";
import {
  createGuestMemory,
  MEMORY_UNIT_BYTES,
  type SharedGuestMemory,
} from "@hyperv-is/platform-node";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { checksum, payloadByte } from "./payload.js";
import type { RingEndData, RingLanguage, RingLayout, RingRound } from "./ring-end.js";

/** Largest payload of the benchmark. */
export const PAYLOAD_BYTES_MAX = 65_536;

function layoutOf(ringDataBytes: number): RingLayout {
  const ringPages = ringDataBytes / PAGE_SIZE + 1;
  const gate = ringPages * PAGE_SIZE;
  const source = gate + PAGE_SIZE;
  const target = source + PAYLOAD_BYTES_MAX;
  return { ring: 0, ringPages, gate, source, target, targetBytes: PAYLOAD_BYTES_MAX };
}

/** A ring of ours between two threads. */
export class RingThreads {
  readonly #layout: RingLayout;
  readonly #memory: SharedGuestMemory;
  readonly #ends: readonly Worker[];
  readonly #failed: Promise<never>;

  /** @param ringDataBytes - Data bytes of the ring, a multiple of the page size. */
  constructor(language: RingLanguage, ringDataBytes: number) {
    this.#layout = layoutOf(ringDataBytes);
    const { source, target } = this.#layout;
    const bytes = target + PAYLOAD_BYTES_MAX;
    const units = Math.ceil(bytes / MEMORY_UNIT_BYTES);
    this.#memory = createGuestMemory(units * MEMORY_UNIT_BYTES);
    for (let index = 0; index < PAYLOAD_BYTES_MAX; index++)
      this.#memory.bytes[source + index] = payloadByte(index);
    const entry = createRequire(import.meta.url).resolve("@hyperv-is/bench/ring/ring-end");
    this.#ends = (["producer", "consumer"] as const).map((role) => {
      const memory = this.#memory.wasm;
      const data: RingEndData = { role, language, memory, layout: this.#layout };
      return new Worker(entry, { name: role, workerData: data, execArgv: [] });
    });
    this.#failed = new Promise((_, reject) => {
      for (const end of this.#ends) end.once("error", reject);
    });
    this.#failed.catch(() => undefined);
  }

  /**
   * Sends packets, each with a transaction id that the consumer checks.
   * @returns The seconds that the consumer needed, and the checksum of the last payload as it arrived.
   */
  async send(round: RingRound): Promise<{ seconds: number; checksum: number }> {
    const { gate, target } = this.#layout;
    const { bytes, words } = this.#memory;
    bytes.fill(0, target, target + PAYLOAD_BYTES_MAX);
    Atomics.store(words, gate >>> 2, 0);
    const answers = this.#ends.map((end) => once(end, "message") as Promise<[number]>);
    for (const end of this.#ends) end.postMessage(round);
    const [, [seconds]] = (await Promise.race([this.#failed, Promise.all(answers)])) as [
      [number],
      [number],
    ];
    return { seconds, checksum: checksum(bytes, target, round.payloadBytes) };
  }

  async close(): Promise<void> {
    await Promise.all(this.#ends.map((end) => end.terminate()));
  }
}
