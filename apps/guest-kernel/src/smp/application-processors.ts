import type { NodeHost } from "@hyperv-is/hyperv-host/node";
import {
  connectCpus,
  startWorker,
  type CpuPeer,
  type ThreadPin,
  type VcpuData,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { vcpuThread } from "../machine-threads.js";
import { BOOT_CPU } from "./application-processor.js";
import type { MemoryLayout } from "./memory-layout.js";
import type { VcpuProgramData } from "./vcpu.js";

/** The program of every virtual processor. */
export const VCPU_ENTRY = "@hyperv-is/guest-kernel/smp/vcpu";

/** How long a CPU that is told to stop may take before it is terminated. */
const STOP_TIMEOUT_MS = 1_000;

/** The threads of the virtual processors besides the boot processor, as the machine has them. */
export class ApplicationProcessors {
  /** The boot processor's ends of the lines to them. */
  readonly peers: readonly CpuPeer[];
  readonly #workers: readonly WorkerHandle[];
  readonly #lost: (cpu: number, reason: string) => void;

  /** @param lost - Hears of each that ends, for whatever reason. */
  constructor(
    host: NodeHost,
    { arenas }: MemoryLayout,
    pins: ReadonlyMap<string, ThreadPin>,
    data: Pick<VcpuData<VcpuProgramData>, "memory" | "program">,
    lost: (cpu: number, reason: string) => void,
  ) {
    this.#lost = lost;
    const boot = host.doorbellOf(BOOT_CPU);
    const peers: CpuPeer[] = [];
    this.#workers = arenas.slice(1).map(({ address, lengthBytes }, at) => {
      const index = at + 1;
      const doorbell = host.doorbellOf(index);
      const [[bootEnd], ends] = connectCpus([boot, doorbell]) as [CpuPeer[], CpuPeer[]];
      peers.push({ ...bootEnd!, cpu: index });
      const own: VcpuData<VcpuProgramData> = {
        ...data,
        index,
        arenaAddress: address,
        arenaBytes: lengthBytes,
        peers: ends,
      };
      return startWorker({
        entry: VCPU_ENTRY,
        from: import.meta.url,
        name: vcpuThread(index),
        pin: pins.get(vcpuThread(index)),
        data: own,
        transfer: ends.map(({ port }) => port),
        doorbell,
        stopTimeoutMs: STOP_TIMEOUT_MS,
        onExit: ({ error, code, stopRequested }) => {
          const ended = stopRequested ? "terminated" : `ended with code ${code}`;
          lost(index, error?.message ?? ended);
        },
      });
    });
    this.peers = peers;
  }

  /** Ends one of them, whatever it does. */
  stop(cpu: number): void {
    // One that cannot even be terminated is inside a system call, after which no line of the guest's code runs.
    this.#workers[cpu - 1]?.stop().catch((error: unknown) => {
      this.#lost(cpu, (error as Error).message);
    });
  }

  /** Ends all of them. */
  async stopAll(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.stop()));
  }
}
