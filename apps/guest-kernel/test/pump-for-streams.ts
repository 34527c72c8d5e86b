import { createDoorbells, createGuestMemory, Pump, type Pumped } from "@hyperv-is/platform-node";
import type { StreamPump } from "../src/nbd/byte-stream.js";
import { streamPump } from "../src/nbd/open-stream.js";

/** A pump that runs, and what streams need of it. */
export class PumpForStreams {
  readonly driven = new Set<Pumped>();
  readonly memory = createGuestMemory(2 ** 20);
  /** Undefined without koffi. */
  readonly streams: StreamPump | undefined;
  readonly #pump = new Pump("async", createDoorbells(1)[0]!);
  readonly #running: Promise<void>;

  constructor() {
    const pump = this.#pump;
    this.streams = streamPump({
      memory: this.memory,
      doorbell: pump.doorbell,
      watch: (fd, news) => pump.watch(fd, news),
      watchFor: (fd, input, output) => pump.watchFor(fd, input, output),
      drive: (pumped) => {
        this.driven.add(pumped);
        return () => void this.driven.delete(pumped);
      },
    });
    this.#running = pump.run({
      drain: () => [...this.driven].filter((one) => one.drain()).length > 0,
    });
  }

  async stop(): Promise<void> {
    this.#pump.doorbell.requestStop();
    await this.#running;
  }
}
