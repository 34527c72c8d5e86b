import { EventFlags } from "@hyperv-is/vmbus-core";
import { EventFlagsPage, SINT_COUNT, Sint } from "@hyperv-is/vmbus-core/protocol";
import { SavedPartitionError } from "../saved-partition.js";
import { FaultCounters, GUEST_FAULT_WORDS } from "./fault-counters.js";
import { MessageQueue } from "./message-queue.js";
import { SIGNAL_PORT_WORDS, SignalPorts } from "./signal-ports.js";

/** Most virtual processors of a partition. */
export const VP_LIMIT = 64;

/** Words set aside for each doorbell: a cache line, so that bells do not disturb each other. */
export const DOORBELL_WORDS = 16;

/** Registers of one virtual processor, as indices of words in its block; each MSR takes two words, low half first. */
export const VpRegister = {
  scontrol: 0,
  siefp: 2,
  simp: 4,
  vpAssistPage: 6,
  /** SINTn at `sint0 + 2 * n`. */
  sint0: 8,
} as const;

/** Registers that the processors of a partition share. */
export const PartitionRegister = { guestOsId: 0, hypercall: 2 } as const;

const PARTITION_REGISTER_WORDS = 4;

/** Words that are not registers, behind the partition's registers. */
const Shared = {
  /** GPA of the interrupt page's send half, with `PAGE_IN_USE`; 0 without one. */
  sendHalf: 4,
  /** GPA of the child-to-parent monitor page, with `PAGE_IN_USE`; 0 without one. */
  monitorPage: 5,
  /** Connection ids that take messages; 0 is none. */
  messageConnections: 6,
  messageConnectionCount: 3,
  /** A bit per virtual processor that wrote EOM. */
  endOfMessage: 10,
  WORDS: 16,
} as const;

const MAGIC = 0x4856_5331;
const Header = {
  magic: 0,
  vpCount: 1,
  workerCount: 2,
  queueEntries: 3,
  /** Whether the workers' bells are that of the first virtual processor. */
  workersOnBootProcessor: 4,
  WORDS: 16,
} as const;

const VP_REGISTER_WORDS = 40;
const VECTOR_WORDS = 8;
const VP_WORDS = 64;
const FLAG_WORDS = EventFlagsPage.flagsPerArea / 32;

/** A page address has its low bits free; this one says that it is meant. */
const PAGE_IN_USE = 1;

/** Sizes of a partition's hypervisor state. */
export interface HypervisorOptions {
  /** Virtual processors, 1 to `VP_LIMIT`. */
  readonly vps: number;
  /** Host workers, at least 1. */
  readonly workers: number;
  /** The thread of the first virtual processor is that of all workers, too: its bell wakes them. */
  readonly workersOnBootProcessor?: boolean;
  /** Posted messages that may wait for the host, a power of two; 64 unless told. */
  readonly queueEntries?: number;
  /** True if several threads will attach. */
  readonly shared?: boolean;
}

/**
 * What the hypervisor keeps about a partition, in a small buffer of its own that no guest physical
 * address reaches: synthetic registers, messages on their way to the host, signal ports, doorbells.
 *
 * Each thread attaches with `new HypervisorState(buffer)`. Every access is atomic. Registers are written
 * by the thread of their virtual processor, ports and pages by the host's control thread, and read by all.
 */
export class HypervisorState {
  readonly buffer: ArrayBufferLike;
  readonly words: Int32Array;
  readonly vpCount: number;
  readonly workerCount: number;
  /** Messages that guests posted; taken by the control thread. */
  readonly messages: MessageQueue;
  /** Where the guest's signals go. */
  readonly ports: SignalPorts;
  /** What virtual processors did wrong; collected by the control thread. */
  readonly faults: FaultCounters;
  /** A flag per virtual processor that wrote EOM. */
  readonly endOfMessage: EventFlags;
  readonly #shared: number;
  readonly #vps: number;
  readonly #vpBells: number;
  readonly #workers: number;
  readonly #controlBell: number;

  /** Attaches to the state that `create` made, perhaps on another thread. */
  constructor(buffer: ArrayBufferLike) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer);
    if (this.words[Header.magic] !== MAGIC) throw new Error("not a hypervisor state");
    this.vpCount = this.words[Header.vpCount]!;
    this.workerCount = this.words[Header.workerCount]!;
    const at = layout(this.vpCount, this.workerCount, this.words[Header.queueEntries]!);
    this.#shared = at.shared;
    this.#vps = at.vps;
    this.#vpBells = at.vpBells;
    this.#workers = at.workers;
    this.#controlBell = at.controlBell;
    this.messages = new MessageQueue(this.words, at.queue, this.words[Header.queueEntries]!);
    this.ports = new SignalPorts(this.words, at.ports);
    this.faults = new FaultCounters(this.words, at.faults);
    this.endOfMessage = new EventFlags(this.words, at.shared + Shared.endOfMessage, VP_LIMIT / 32);
  }

  /** Makes the state of a new partition: all registers at their reset values. */
  static create({
    vps,
    workers,
    workersOnBootProcessor = false,
    queueEntries = 64,
    shared = false,
  }: HypervisorOptions): HypervisorState {
    if (!Number.isInteger(vps) || vps < 1 || vps > VP_LIMIT)
      throw new RangeError(`a partition has 1 to ${VP_LIMIT} virtual processors`);
    if (!Number.isInteger(workers) || workers < 1) throw new RangeError("at least one host worker");
    if (!Number.isInteger(Math.log2(queueEntries)))
      throw new RangeError("the message queue has a power of two entries");
    const bytes = layout(vps, workers, queueEntries).end * 4;
    const words = new Int32Array(shared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes));
    words[Header.vpCount] = vps;
    words[Header.workerCount] = workers;
    words[Header.queueEntries] = queueEntries;
    words[Header.workersOnBootProcessor] = workersOnBootProcessor ? 1 : 0;
    words[Header.magic] = MAGIC;
    const state = new HypervisorState(words.buffer);
    state.messages.clear();
    state.reset();
    return state;
  }

  /**
   * Puts the registers, pending vectors, posted messages and signals back to what they are when a machine
   * starts. Ports, pages and connections are the server's.
   */
  reset(): void {
    this.words.fill(0, this.#shared, this.#shared + PARTITION_REGISTER_WORDS);
    for (let word = 0; word < this.endOfMessage.wordCount; word++) this.endOfMessage.take(word);
    this.words.fill(0, this.#vps, this.#vps + this.vpCount * VP_WORDS);
    for (let vp = 0; vp < this.vpCount; vp++)
      for (let sint = 0; sint < SINT_COUNT; sint++)
        this.storeRegister(this.vpRegister(vp, VpRegister.sint0 + 2 * sint), Sint.reset);
    this.messages.discard();
    for (let worker = 0; worker < this.workerCount; worker++) {
      const flags = this.workerFlags(worker);
      for (let word = 0; word < flags.wordCount; word++) flags.take(word);
    }
  }

  /**
   * Puts everything back to what `words` held once, of a partition of the same sizes.
   * Throws `SavedPartitionError` if they are of another.
   */
  restore(words: Int32Array): void {
    const isAlike =
      words.length === this.words.length &&
      this.words.subarray(0, Header.WORDS).every((word, index) => word === words[index]);
    if (!isAlike)
      throw new SavedPartitionError("it had other numbers of processors, workers or queue entries");
    this.words.set(words);
  }

  /** Word index of a register of one processor. @param register - one of `VpRegister`. */
  vpRegister(vp: number, register: number): number {
    return this.#vps + vp * VP_WORDS + register;
  }

  /** Word index of a register of the partition. @param register - one of `PartitionRegister`. */
  partitionRegister(register: number): number {
    return this.#shared + register;
  }

  /** Both halves of a register; only its own processor sees them together. */
  loadRegister(at: number): bigint {
    const low = BigInt(Atomics.load(this.words, at) >>> 0);
    return (BigInt(Atomics.load(this.words, at + 1) >>> 0) << 32n) | low;
  }

  storeRegister(at: number, value: bigint): void {
    Atomics.store(this.words, at + 1, Number(BigInt.asIntN(32, value >> 32n)));
    Atomics.store(this.words, at, Number(BigInt.asIntN(32, value)));
  }

  /** Low half of SINTn, as the host's threads need it. */
  sint(vp: number, sint: number): number {
    return Atomics.load(this.words, this.vpRegister(vp, VpRegister.sint0 + 2 * sint));
  }

  /**
   * Vectors that wait for a processor without an interrupt controller of its own: a platform's bell sets
   * them, its processor takes them.
   */
  pendingVectors(vp: number): EventFlags {
    return new EventFlags(this.words, this.vpRegister(vp, VP_REGISTER_WORDS), VECTOR_WORDS);
  }

  /** The signals that a host worker has not looked at yet, by flag. */
  workerFlags(worker: number): EventFlags {
    return new EventFlags(this.words, this.#worker(worker) + DOORBELL_WORDS, FLAG_WORDS);
  }

  /** First word of the doorbell of a virtual processor; `DOORBELL_WORDS` words, used as the platform likes. */
  vpDoorbell(vp: number): number {
    return this.#vpBells + vp * DOORBELL_WORDS;
  }

  /** First word of the doorbell of the host's control thread. */
  get controlDoorbell(): number {
    return this.#controlBell;
  }

  /** First word of the doorbell of a host worker: of the thread that it runs on. */
  workerDoorbell(worker: number): number {
    return this.words[Header.workersOnBootProcessor] === 1
      ? this.vpDoorbell(0)
      : this.#worker(worker);
  }

  /** The send half of the interrupt page, of protocols below 2.4; undefined without one. */
  get sendHalf(): number | undefined {
    return this.#page(Shared.sendHalf);
  }

  set sendHalf(address: number | undefined) {
    this.#setPage(Shared.sendHalf, address);
  }

  /** The child-to-parent monitor page; undefined without one. */
  get monitorPage(): number | undefined {
    return this.#page(Shared.monitorPage);
  }

  set monitorPage(address: number | undefined) {
    this.#setPage(Shared.monitorPage, address);
  }

  /** Replaces the connection ids on which messages may be posted; at most three. */
  setMessageConnections(ids: readonly number[]): void {
    for (let index = 0; index < Shared.messageConnectionCount; index++)
      Atomics.store(this.words, this.#shared + Shared.messageConnections + index, ids[index] ?? 0);
  }

  /** True if messages may be posted on this connection. */
  isMessageConnection(id: number): boolean {
    if (id === 0) return false;
    const first = this.#shared + Shared.messageConnections;
    for (let index = 0; index < Shared.messageConnectionCount; index++)
      if (Atomics.load(this.words, first + index) === id) return true;
    return false;
  }

  #worker(worker: number): number {
    return this.#workers + worker * (DOORBELL_WORDS + FLAG_WORDS);
  }

  #page(word: number): number | undefined {
    const value = Atomics.load(this.words, this.#shared + word) >>> 0;
    return value === 0 ? undefined : value - PAGE_IN_USE;
  }

  #setPage(word: number, address: number | undefined): void {
    Atomics.store(
      this.words,
      this.#shared + word,
      address === undefined ? 0 : address + PAGE_IN_USE,
    );
  }
}

/** Word index of each part. */
function layout(
  vps: number,
  workers: number,
  queueEntries: number,
): Readonly<
  Record<
    "shared" | "vps" | "vpBells" | "controlBell" | "workers" | "ports" | "faults" | "queue" | "end",
    number
  >
> {
  const shared = Header.WORDS;
  const first = shared + Shared.WORDS;
  const vpBells = first + vps * VP_WORDS;
  const controlBell = vpBells + vps * DOORBELL_WORDS;
  const workersAt = controlBell + DOORBELL_WORDS;
  const ports = workersAt + workers * (DOORBELL_WORDS + FLAG_WORDS);
  const faults = ports + SIGNAL_PORT_WORDS;
  const queue = faults + GUEST_FAULT_WORDS;
  const end = queue + MessageQueue.words(queueEntries);
  return {
    shared,
    vps: first,
    vpBells,
    controlBell,
    workers: workersAt,
    ports,
    faults,
    queue,
    end,
  };
}
