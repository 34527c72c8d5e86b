import type { DiskSource } from "@hyperv-is/hyperv-host";
import { NodeHost } from "@hyperv-is/hyperv-host/node";
import {
  connectCpus,
  createGuestMemory,
  placeThreads,
  startWorker,
  type ThreadPin,
  type VcpuData,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { BenchmarkError } from "../benchmark.js";
import type { GuestReply, GuestRequest, VcpuProgramData } from "./boot-processor.js";
import type { ReadPlan } from "./read-load.js";
import type { ReadOptions, ReadOutcome } from "./reader.js";

const MEMORY_BYTES = 64 * 2 ** 20;
/** The first pages stay unused, so that an address of 0 is always a mistake. */
const ARENA_ADDRESS = 64 * 1024;
const CONTROLLER_ID = "5c51be4c-0000-4000-8000-000000000000";

type Answer = { readonly reply: GuestReply } | { readonly error: Error };

/**
 * The machine of the storage benchmark: the emulated host with one disk on its worker, and a guest that is nothing
 * but bus, disk driver and load, on one virtual processor or several.
 */
export class BenchMachine implements AsyncDisposable {
  /** Logical blocks of the disk, and their size. */
  readonly blocks: number;
  readonly blockBytes: number;
  readonly #host: NodeHost;
  readonly #guest: GuestThread;
  /** The processors beside the one that attaches the disk. */
  readonly #others: readonly GuestThread[];

  private constructor(
    host: NodeHost,
    [guest, ...others]: readonly [GuestThread, ...GuestThread[]],
    disk: GuestReply & { kind: "ready" },
  ) {
    this.#host = host;
    this.#guest = guest;
    this.#others = others;
    this.blocks = disk.blocks;
    this.blockBytes = disk.blockBytes;
  }

  /**
   * Boots with one disk. Rejects when it cannot be opened, or the guest fails.
   *
   * @param channels - of its controller. @param processors - 1, which then has all channels, or one for each of them.
   * @param pin - The CPU of threads: of `vcpu0` and so on, and of `disks`.
   */
  static async boot(
    source: DiskSource,
    channels = 1,
    processors = 1,
    pin: Readonly<Record<string, number>> = {},
  ): Promise<BenchMachine> {
    const pins = placeThreads(pin);
    const memory = createGuestMemory(MEMORY_BYTES);
    const host = await NodeHost.start({
      memory,
      vps: processors,
      pins,
      controllers: [
        {
          instanceId: CONTROLLER_ID,
          subChannelsMax: channels - 1,
          disks: [{ path: 0, target: 0, lun: 0, source }],
        },
      ],
    });
    const numbers = Array.from({ length: processors }, (_, number) => number);
    const peers = connectCpus(numbers.map((number) => host.doorbellOf(number)));
    // The first processor has the rings of all channels, and with several as much as all others.
    const sharePages = Math.floor(MEMORY_BYTES / 2 / Math.max(1, processors - 1) / PAGE_SIZE);
    const share = sharePages * PAGE_SIZE;
    const arena = (number: number): { arenaAddress: number; arenaBytes: number } =>
      number > 0
        ? { arenaAddress: MEMORY_BYTES / 2 + (number - 1) * share, arenaBytes: share }
        : {
            arenaAddress: ARENA_ADDRESS,
            arenaBytes: MEMORY_BYTES / Math.min(2, processors) - ARENA_ADDRESS,
          };
    const start = (index: number, boot?: GuestThread): GuestThread =>
      new GuestThread(
        host,
        {
          index,
          memory: memory.wasm,
          ...arena(index),
          peers: peers[index]!,
          program: { state: host.state.buffer, channels, processors },
        },
        pins,
        boot,
      );
    const guest = start(0);
    const others = numbers.slice(1).map((index) => start(index, guest));
    try {
      return new BenchMachine(host, [guest, ...others], await guest.answer("ready"));
    } catch (error) {
      await Promise.all([guest, ...others].map((thread) => thread.stop()));
      await host.stop();
      throw error;
    }
  }

  /** Has the guest read. */
  async read(plan: ReadPlan, options: ReadOptions = {}): Promise<ReadOutcome> {
    this.#guest.send({ kind: "read", plan, ...options });
    return this.#guest.answer("done");
  }

  /** Shuts the guest down in good order. Rejects if it has broken a rule of the protocol on the way. */
  async shutDown(): Promise<void> {
    this.#guest.send({ kind: "power-off" });
    await Promise.all([this.#guest, ...this.#others].map(({ ended }) => ended));
    const [violation] = this.#host.violations.list;
    await this.#host.stop();
    if (violation !== undefined)
      throw new Error(`the guest broke the rule ${violation.rule}: ${violation.detail}`);
  }

  /** Ends it, wherever it is: nothing of it is left that would keep the process alive. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#guest, ...this.#others].map((thread) => thread.stop()));
    await this.#host.stop();
  }
}

/** The worker of a virtual processor. */
class GuestThread {
  readonly #worker: WorkerHandle<GuestRequest, GuestReply>;
  /** Answers that have come, and who waits for one. */
  readonly #answers: Answer[] = [];
  #wake: () => void = () => undefined;

  /** @param boot - The first processor's, where it is waited for answers. */
  constructor(
    host: NodeHost,
    data: VcpuData<VcpuProgramData>,
    pins: ReadonlyMap<string, ThreadPin>,
    boot?: GuestThread,
  ) {
    const name = `vcpu${data.index}`;
    this.#worker = startWorker<GuestRequest, GuestReply>({
      entry: "@hyperv-is/bench/storage/vcpu",
      from: import.meta.url,
      name,
      pin: pins.get(name),
      data,
      transfer: (data.peers ?? []).map(({ port }) => port),
      doorbell: host.doorbellOf(data.index),
      onMessage: (reply) => this.#put({ reply }),
      onExit: ({ error }) =>
        (boot ?? this).#put({ error: error ?? new Error("the guest has ended") }),
    });
  }

  get ended(): Promise<unknown> {
    return this.#worker.exited;
  }

  send(request: GuestRequest): void {
    this.#worker.post(request);
  }

  stop(): Promise<void> {
    return this.#worker.stop();
  }

  /** The guest's next answer, which has to be of this kind. */
  async answer<Kind extends GuestReply["kind"]>(
    kind: Kind,
  ): Promise<Extract<GuestReply, { kind: Kind }>> {
    while (this.#answers.length === 0)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    const answer = this.#answers.shift()!;
    if ("error" in answer) throw answer.error;
    const { reply } = answer;
    if (reply.kind === "failed") throw new BenchmarkError(reply.message);
    if (reply.kind !== kind) throw new Error(`the guest answered ${reply.kind}, not ${kind}`);
    return reply as Extract<GuestReply, { kind: Kind }>;
  }

  #put(answer: Answer): void {
    this.#answers.push(answer);
    this.#wake();
  }
}
