import { describe, expect, test } from "vitest";
import { HypervisorState, VmbusServer, type WorkerReply } from "@hyperv-is/hyperv-host";
import { DoorbellBells } from "@hyperv-is/hyperv-host/node/processor";
import {
  Doorbell,
  Pump,
  connectCpus,
  createGuestMemory,
  startWorker,
  type VcpuData,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import { channelSuite } from "@hyperv-is/conformance";

const MEBIBYTE = 2 ** 20;
const { classId } = DeviceClass.scsi;

/** How a case of the suite ended on a processor. */
interface Outcome {
  readonly cpu: number;
  readonly name: string;
  readonly error: string | undefined;
}

/**
 * A machine whose processors all run the channel suite at once, over the bus, against one worker of the host.
 * Resolves when all have ended. Rejects when one of the threads fails.
 */
async function runSuiteOn(cpus: number): Promise<{
  readonly outcomes: readonly Outcome[];
  readonly violations: readonly unknown[];
}> {
  const memory = createGuestMemory((cpus + 1) * MEBIBYTE);
  const state = HypervisorState.create({ vps: cpus, workers: 1, shared: true });
  const control = new Doorbell(state.words, state.controlDoorbell);
  const pump = new Pump("async", control, { spinLimitUs: 0 });
  const workers: WorkerHandle[] = [];
  const entry = (name: string): URL => new URL(`./workers/${name}.js`, import.meta.url);
  let failed: (error: Error) => void = () => undefined;
  const failure = new Promise<never>((_, reject) => (failed = reject));
  const host = startWorker<unknown, WorkerReply>({
    entry: entry("peer-host"),
    name: "host",
    data: { memory: memory.wasm, state: state.buffer, classId },
    doorbell: new Doorbell(state.words, state.workerDoorbell(0)),
    ownBell: control,
    onError: (error) => failed(error),
  });
  workers.push(host);
  const server = new VmbusServer({
    state,
    memory,
    bells: new DoorbellBells(state),
    timers: pump.timers,
    workers: [{ send: (request) => host.post(request) }],
  });
  for (let cpu = 0; cpu < cpus; cpu++)
    server.offer({ classId, instanceId: `5c51c000-0000-0000-0000-00000000000${cpu}`, worker: 0 });
  const pumping = pump.run({
    drain() {
      control.take();
      for (let next = host.link.receive(); next !== undefined; next = host.link.receive())
        server.reply(next);
      return server.run();
    },
  });
  const outcomes: Outcome[] = [];
  const bells = Array.from(
    { length: cpus },
    (_, vp) => new Doorbell(state.words, state.vpDoorbell(vp)),
  );
  const processors = connectCpus(bells).map((peers, index) => {
    const data: VcpuData = {
      index,
      memory: memory.wasm,
      arenaAddress: (index + 1) * MEBIBYTE - MEBIBYTE / 2,
      arenaBytes: MEBIBYTE,
      peers,
      program: { state: state.buffer, cpus },
    };
    return startWorker<unknown, Outcome>({
      entry: entry("suite-vcpu"),
      name: `vcpu${index}`,
      data,
      transfer: peers.map(({ port }) => port),
      doorbell: bells[index]!,
      onMessage: (outcome) => outcomes.push(outcome),
      onError: (error) => failed(error),
    });
  });
  workers.push(...processors);
  try {
    await Promise.race([Promise.all(processors.map(({ exited }) => exited)), failure]);
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()));
    control.requestStop();
    await pumping;
  }
  return { outcomes, violations: server.violations.list };
}

describe.each([1, 2, 4])(
  "the channel suite on %i processors, rings of the minimum size",
  (cpus) => {
    test("passes on all of them at once", { timeout: 300_000 }, async () => {
      const { outcomes, violations } = await runSuiteOn(cpus);
      expect(outcomes.filter(({ error }) => error !== undefined)).toEqual([]);
      for (let cpu = 0; cpu < cpus; cpu++)
        expect(outcomes.filter((outcome) => outcome.cpu === cpu).map(({ name }) => name)).toEqual(
          channelSuite.map(({ name }) => name),
        );
      expect(violations).toEqual([]);
    });
  },
);
