import { afterEach, vi } from "vitest";
import {
  createDoorbells,
  createGuestMemory,
  MEMORY_UNIT_BYTES,
  Pump,
  startWorker,
} from "@hyperv-is/platform-node";
import {
  Channel,
  ChannelDispatcher,
  IncomingRing,
  OutgoingRing,
  RingArea,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { channelSuite, type ChannelSetup } from "@hyperv-is/conformance";
import { runSuite } from "@hyperv-is/conformance/vitest";

/** Cause of the doorbells for a signal of the channel. */
const SIGNAL = 1 << 8;
/** Flag of the only channel. */
const FLAG = 1;
/** Memory of the suite beside the rings. */
const SCRATCH_BYTES = 64 * 1024;
/** How long an end may take for what the other waits for, on a busy machine. */
const PATIENCE_MS = 30_000;

/** What somebody waits for. */
interface Waiter {
  readonly done: () => boolean;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
}

/**
 * The near end on an asynchronous pump of this thread, the far end on a worker that sleeps on its doorbell.
 *
 * @param ringCore - On: the rings are WebAssembly's work. Off: TypeScript's.
 */
const workers = (ringCore: "on" | "off"): ChannelSetup => ({
  connect(ringPages, peer, handler) {
    vi.stubEnv("HYPERV_IS_RING_CORE", ringCore);
    const scratchAddress = 2 * ringPages * PAGE_SIZE;
    const units = Math.ceil((scratchAddress + SCRATCH_BYTES) / MEMORY_UNIT_BYTES);
    const memory = createGuestMemory(units * MEMORY_UNIT_BYTES);
    if ((memory.ringCore !== undefined) !== (ringCore === "on")) throw new Error("no ring core");
    const [nearBell] = createDoorbells(1);
    const waiters = new Set<Waiter>();
    const fail = (error: Error): void => {
      for (const waiter of waiters) waiter.reject(error);
    };
    const worker = startWorker({
      entry: new URL("./workers/channel-peer.js", import.meta.url),
      name: "far end",
      data: {
        memory: memory.wasm,
        ringPages,
        peer,
        signalCause: SIGNAL,
        nearBell: nearBell!.words,
      },
      onError: fail,
    });
    const dispatcher = new ChannelDispatcher();
    const channel = new Channel(
      new IncomingRing(RingArea.at(memory, ringPages * PAGE_SIZE, ringPages)),
      new OutgoingRing(RingArea.at(memory, 0, ringPages)),
      { signal: () => worker.doorbell.ring(SIGNAL) },
      handler,
    );
    dispatcher.bind(FLAG, channel);
    const pump = new Pump("async", nearBell!);
    const pumping = pump
      .run({
        drain() {
          const signalled = (nearBell!.take() & SIGNAL) !== 0;
          if (signalled) {
            channel.interrupt();
            dispatcher.schedule(channel);
          }
          const more = dispatcher.run();
          for (const waiter of waiters) if (waiter.done()) waiter.resolve();
          return more || signalled;
        },
      })
      .catch((error: unknown) => fail(error as Error));
    return Promise.resolve({
      channel,
      memory,
      scratchAddress,
      until: async (done) => {
        if (done()) return;
        let waiter: Waiter | undefined;
        const timer = pump.timers.after(PATIENCE_MS, () =>
          waiter?.reject(new Error(`nothing came within ${PATIENCE_MS} ms`)),
        );
        try {
          await new Promise<void>((resolve, reject) => {
            waiter = { done, resolve, reject };
            waiters.add(waiter);
          });
        } finally {
          timer.cancel();
          if (waiter !== undefined) waiters.delete(waiter);
        }
      },
      close: async () => {
        nearBell!.requestStop();
        await pumping;
        await worker.stop();
      },
    });
  },
});

afterEach(() => vi.unstubAllEnvs());
runSuite("threads, rings in WebAssembly", channelSuite, workers("on"));
runSuite("threads, rings in TypeScript", channelSuite, workers("off"));
