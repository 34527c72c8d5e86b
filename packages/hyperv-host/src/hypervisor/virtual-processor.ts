import {
  VmbusError,
  type Clock,
  type CpuidResult,
  type GuestMemory,
  type HypervisorPort,
} from "@hyperv-is/vmbus-core";
import {
  CONNECTION_ID_MASK,
  CPUID_1_ECX_HYPERVISOR,
  ConnectionId,
  CpuidLeaf,
  HYPERCALL_CODE_MASK,
  HYPERCALL_FAST,
  HYPERCALL_INPUT_ALIGNMENT,
  HYPERVISOR_INTERFACE,
  HYPERVISOR_VENDOR,
  HypercallCode,
  HypercallStatus,
  HypervisorAdvice,
  HypervisorFeature,
  HypervisorMiscFeature,
  HypervisorPrivilege,
  MESSAGE_PAYLOAD_MAX,
  MSR_ENABLE,
  MSR_PAGE_MASK,
  Msr,
  PAGE_SIZE,
  PostMessageInput,
  SINT_COUNT,
  SYNIC_VERSION,
  SignalEventInput,
  Sint,
} from "@hyperv-is/vmbus-core/protocol";
import type { Bells } from "./bells.js";
import type { GuestFaultRule } from "./fault-counters.js";
import { HostSignals } from "./host-signals.js";
import {
  PartitionRegister,
  VP_LIMIT,
  VpRegister,
  type HypervisorState,
} from "./hypervisor-state.js";

/** An instruction that a processor answers with a general-protection fault. */
export class GeneralProtectionFault extends VmbusError<"ERR_GENERAL_PROTECTION"> {
  /** The MSR that the instruction named. */
  readonly msr: number;

  constructor(msr: number, detail: string) {
    super("ERR_GENERAL_PROTECTION", `MSR 0x${msr.toString(16)}: ${detail}`);
    this.msr = msr;
  }
}

/** Units of 100 ns in a millisecond. */
const REFERENCE_TIME_PER_MS = 10_000;

/** What stock guests were seen to accept: Windows Server 2019. */
const BUILD = 17_763;
const VERSION_10_0 = 10 << 16;

const NOTHING: CpuidResult = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

const LEAVES: ReadonlyMap<number, CpuidResult> = new Map([
  [1, { ...NOTHING, ecx: CPUID_1_ECX_HYPERVISOR }],
  [
    CpuidLeaf.maximum,
    {
      eax: CpuidLeaf.hardwareFeatures,
      ebx: HYPERVISOR_VENDOR[0],
      ecx: HYPERVISOR_VENDOR[1],
      edx: HYPERVISOR_VENDOR[2],
    },
  ],
  [CpuidLeaf.interface, { ...NOTHING, eax: HYPERVISOR_INTERFACE }],
  [CpuidLeaf.version, { ...NOTHING, eax: BUILD, ebx: VERSION_10_0 }],
  [
    CpuidLeaf.features,
    {
      ...NOTHING,
      eax:
        HypervisorFeature.referenceCounter |
        HypervisorFeature.synic |
        HypervisorFeature.hypercall |
        HypervisorFeature.vpIndex,
      ebx: HypervisorPrivilege.postMessages | HypervisorPrivilege.signalEvents,
    },
  ],
  // EBX: how often to try for a spin lock before telling the hypervisor; all ones is never.
  [CpuidLeaf.recommendations, { ...NOTHING, eax: HypervisorAdvice.noAutoEoi, ebx: 0xffff_ffff }],
  [CpuidLeaf.limits, { ...NOTHING, eax: VP_LIMIT, ebx: VP_LIMIT }],
]);

/** Vectors below are the processor's own exceptions; a SINT cannot have one. */
const FIRST_VECTOR = 16n;

/** Set in message types that only the hypervisor sends. */
const HYPERVISOR_MESSAGE = 0x8000_0000;

/** Words of the input of the hypercall post message. */
const PostWord = {
  connectionId: PostMessageInput.fields.connectionId.offset / 4,
  reserved: 1,
  messageType: PostMessageInput.fields.messageType.offset / 4,
  payloadSize: PostMessageInput.fields.payloadSize.offset / 4,
  payload: PostMessageInput.fields.payload.offset / 4,
} as const;

/** Clocks of a processor that its guest would have to measure otherwise. */
export interface TimerFrequencies {
  /** Of the time-stamp counter. */
  readonly tscHz: number;
  /** Of the local APIC's timer, undivided. */
  readonly apicHz: number;
}

/** What a virtual processor needs of its machine. */
export interface VirtualProcessorOptions {
  readonly state: HypervisorState;
  readonly memory: GuestMemory;
  /** Its own index. */
  readonly index: number;
  readonly bells: Bells;
  readonly clock: Clock;
  /** What the platform's timers run at; without it a guest finds out by itself. */
  readonly frequencies?: TimerFrequencies;
  /**
   * Writes the code by which a guest makes hypercalls to the start of a page, when the guest enables it.
   * Guests that call `hypercall` directly need none.
   */
  readonly writeHypercallPage?: (memory: GuestMemory, address: number) => void;
}

/**
 * The hypervisor as one virtual processor meets it: CPUID, synthetic MSRs, hypercalls. Lives on the
 * thread that runs the guest and touches only shared state, so that a call never waits for the host.
 *
 * Status codes and rules: reference of the hypervisor's hypercalls, with OpenVMM's answers where it is open.
 */
export class VirtualProcessor implements HypervisorPort {
  readonly index: number;
  readonly #state: HypervisorState;
  readonly #memory: GuestMemory;
  readonly #bells: Bells;
  readonly #clock: Clock;
  readonly #signals: HostSignals;
  readonly #frequencies: TimerFrequencies | undefined;
  readonly #writeHypercallPage: ((memory: GuestMemory, address: number) => void) | undefined;

  constructor(options: VirtualProcessorOptions) {
    const { state, memory, index, bells, clock, frequencies, writeHypercallPage } = options;
    if (index < 0 || index >= state.vpCount) throw new RangeError("no such virtual processor");
    this.index = index;
    this.#state = state;
    this.#memory = memory;
    this.#bells = bells;
    this.#clock = clock;
    this.#signals = new HostSignals(state, memory, bells);
    this.#frequencies = frequencies;
    this.#writeHypercallPage = writeHypercallPage;
  }

  /** What this processor adds to the leaf; of the ordinary leaf 1 only the bit that announces a hypervisor. */
  cpuid(leaf: number): CpuidResult {
    const registers = LEAVES.get(leaf) ?? NOTHING;
    if (leaf !== CpuidLeaf.features || this.#frequencies === undefined) return registers;
    return {
      ...registers,
      eax: registers.eax | HypervisorFeature.timerFrequencies,
      edx: registers.edx | HypervisorMiscFeature.timerFrequencies,
    };
  }

  readMsr(msr: number): bigint {
    const register = this.#register(msr);
    if (register !== undefined) return this.#state.loadRegister(register);
    switch (msr) {
      case Msr.vpIndex:
        return BigInt(this.index);
      case Msr.timeReferenceCount:
        return BigInt(Math.floor(this.#clock.now() * REFERENCE_TIME_PER_MS));
      case Msr.tscFrequency:
        if (this.#frequencies !== undefined) return BigInt(this.#frequencies.tscHz);
        break;
      case Msr.apicFrequency:
        if (this.#frequencies !== undefined) return BigInt(this.#frequencies.apicHz);
        break;
      case Msr.sversion:
        return BigInt(SYNIC_VERSION);
      case Msr.eom:
        return 0n;
      default:
    }
    throw this.#fault("msr-access", msr, "not implemented");
  }

  writeMsr(msr: number, value: bigint): void {
    const state = this.#state;
    const register = this.#register(msr);
    if (register === undefined) {
      if (msr !== Msr.eom) throw this.#fault("msr-access", msr, "cannot be written");
      state.endOfMessage.set(this.index);
      this.#bells.control();
      return;
    }
    switch (msr) {
      case Msr.guestOsId:
        // Without an identity there are no hypercalls.
        if (value === 0n)
          state.storeRegister(state.partitionRegister(PartitionRegister.hypercall), 0n);
        break;
      case Msr.hypercall:
        if ((value & MSR_ENABLE) !== 0n) {
          if (!this.#identified) return;
          const page = this.#page(msr, value);
          this.#writeHypercallPage?.(this.#memory, page);
        }
        break;
      case Msr.siefp:
      case Msr.simp:
        this.#enablePage(msr, state.loadRegister(register), value);
        break;
      default:
        if (
          msr >= Msr.sint0 &&
          (value & (Sint.masked | Sint.polling)) === 0n &&
          (value & Sint.vectorMask) < FIRST_VECTOR
        )
          throw this.#fault("msr-value", msr, "the vector is below 16");
    }
    state.storeRegister(register, value);
  }

  /** @param controlHigh - high half of the control word, of which a hypercall without repetitions uses nothing. */
  hypercall(control: number, inputLow: number, inputHigh: number, controlHigh = 0): number {
    if (!this.#identified) {
      this.#count("hypercall-without-guest-os-id", control);
      return HypercallStatus.accessDenied;
    }
    const fast = (control & HYPERCALL_FAST) !== 0;
    const reserved = (control & ~(HYPERCALL_CODE_MASK | HYPERCALL_FAST)) !== 0 || controlHigh !== 0;
    switch (control & HYPERCALL_CODE_MASK) {
      case HypercallCode.signalEvent: {
        if (reserved) break;
        if (fast) return this.#signalEvent(inputLow, inputHigh);
        const status = this.#checkInput(inputLow, inputHigh, SignalEventInput.SIZE);
        if (status !== HypercallStatus.success) return status;
        const at = inputLow >>> 2;
        return this.#signalEvent(this.#memory.words[at]!, this.#memory.words[at + 1]!);
      }
      case HypercallCode.postMessage: {
        if (reserved || fast) break;
        const status = this.#checkInput(inputLow, inputHigh, PostMessageInput.SIZE);
        return status === HypercallStatus.success ? this.#postMessage(inputLow >>> 2) : status;
      }
      default:
        this.#count("hypercall-code", control);
        return HypercallStatus.invalidHypercallCode;
    }
    this.#count("hypercall-control", controlHigh !== 0 ? controlHigh : control);
    return HypercallStatus.invalidHypercallInput;
  }

  get #identified(): boolean {
    const at = this.#state.partitionRegister(PartitionRegister.guestOsId);
    const { words } = this.#state;
    // On the path of every signal: no bigint here.
    return (Atomics.load(words, at) | Atomics.load(words, at + 1)) !== 0;
  }

  /** @param low - connection id. @param high - flag number, and a reserved half. */
  #signalEvent(low: number, high: number): number {
    // Each connection has one flag, and the other half of the word is reserved.
    if (high !== 0) {
      this.#count("signal-event-input", high);
      return HypercallStatus.invalidParameter;
    }
    const id = low & CONNECTION_ID_MASK;
    if (id === ConnectionId.event && this.#signals.scanSendHalf()) return HypercallStatus.success;
    if (this.#signals.signal(id)) return HypercallStatus.success;
    this.#count("signal-event-connection", id);
    return HypercallStatus.invalidConnectionId;
  }

  /** @param at - word index of the input. Each field of the header is read once. */
  #postMessage(at: number): number {
    const { words } = this.#memory;
    const id = words[at + PostWord.connectionId]! & CONNECTION_ID_MASK;
    const reserved = words[at + PostWord.reserved]!;
    const type = words[at + PostWord.messageType]! >>> 0;
    const size = words[at + PostWord.payloadSize]! >>> 0;
    if (reserved !== 0 || size > MESSAGE_PAYLOAD_MAX || type === 0 || type >= HYPERVISOR_MESSAGE) {
      this.#count("post-message-input", reserved !== 0 ? reserved : size);
      return HypercallStatus.invalidParameter;
    }
    if (!this.#state.isMessageConnection(id)) {
      // A guest finds out in this way that a host is older than protocol 5.0.
      if (id !== ConnectionId.multiclientMessage) this.#count("post-message-connection", id);
      return HypercallStatus.invalidConnectionId;
    }
    if (!this.#state.messages.put(this.index, id, type, size, words, at + PostWord.payload))
      return HypercallStatus.insufficientBuffers;
    this.#bells.control();
    return HypercallStatus.success;
  }

  /** Checks where an input lies: aligned, in one page, in guest memory. */
  #checkInput(low: number, high: number, sizeBytes: number): number {
    const address = low >>> 0;
    if (
      address % HYPERCALL_INPUT_ALIGNMENT !== 0 ||
      (address % PAGE_SIZE) + sizeBytes > PAGE_SIZE
    ) {
      this.#count("hypercall-input-alignment", address);
      return HypercallStatus.invalidAlignment;
    }
    if (high !== 0 || !this.#memory.contains(address, sizeBytes)) {
      this.#count("hypercall-input-outside-memory", address);
      return HypercallStatus.invalidParameter;
    }
    return HypercallStatus.success;
  }

  /** Word index of the register behind an MSR that is one; undefined for all others. */
  #register(msr: number): number | undefined {
    const state = this.#state;
    if (msr >= Msr.sint0 && msr < Msr.sint0 + SINT_COUNT)
      return state.vpRegister(this.index, VpRegister.sint0 + 2 * (msr - Msr.sint0));
    switch (msr) {
      case Msr.guestOsId:
        return state.partitionRegister(PartitionRegister.guestOsId);
      case Msr.hypercall:
        return state.partitionRegister(PartitionRegister.hypercall);
      case Msr.vpAssistPage:
        return state.vpRegister(this.index, VpRegister.vpAssistPage);
      case Msr.scontrol:
        return state.vpRegister(this.index, VpRegister.scontrol);
      case Msr.siefp:
        return state.vpRegister(this.index, VpRegister.siefp);
      case Msr.simp:
        return state.vpRegister(this.index, VpRegister.simp);
      default:
        return undefined;
    }
  }

  /** Zeroes a page that is enabled or moved, as the hypervisor's own page in its place would be. */
  #enablePage(msr: number, before: bigint, value: bigint): void {
    if ((value & MSR_ENABLE) === 0n) return;
    const page = this.#page(msr, value);
    const moved = ((before ^ value) & (MSR_PAGE_MASK | MSR_ENABLE)) !== 0n;
    if (moved) this.#memory.clear(page, PAGE_SIZE);
  }

  #page(msr: number, value: bigint): number {
    const page = Number(value & MSR_PAGE_MASK);
    if (!this.#memory.contains(page, PAGE_SIZE))
      throw this.#fault("msr-value", msr, "the page is not in guest memory");
    return page;
  }

  #fault(rule: GuestFaultRule, msr: number, detail: string): GeneralProtectionFault {
    this.#count(rule, msr);
    return new GeneralProtectionFault(msr, detail);
  }

  #count(rule: GuestFaultRule, value: number): void {
    this.#state.faults.count(rule, value);
  }
}
