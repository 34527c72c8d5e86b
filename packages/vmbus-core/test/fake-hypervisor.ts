import {
  GuestCpu,
  GuestMemory,
  PageAllocator,
  type CpuidResult,
  type GuestCpuOptions,
  type HypervisorPort,
} from "@hyperv-is/vmbus-core";
import {
  CpuidLeaf,
  HYPERCALL_FAST,
  HYPERVISOR_INTERFACE,
  HypercallCode,
  HypercallStatus,
  HypervisorAdvice,
  HypervisorFeature,
  HypervisorPrivilege,
  MESSAGE_PENDING,
  MSR_ENABLE,
  MSR_PAGE_MASK,
  MessageSlot,
  Msr,
  PAGE_SIZE,
  PostMessageInput,
  Sint,
  SynicMessageType,
  VMBUS_SINT,
} from "@hyperv-is/vmbus-core/protocol";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

export const MEMORY_PAGES = 64;
export const VP_INDEX = 5;

/** The hypervisor that a test is: one virtual processor, messages in order with the slot-busy rule. */
export class FakeHypervisor implements HypervisorPort {
  readonly memory: GuestMemory;
  readonly msrs = new Map<number, bigint>();
  /** MSR writes but EOM, in order. */
  readonly written: [msr: number, value: bigint][] = [];
  /** Signal-event hypercalls: connection id, then the high half. */
  readonly signals: [connectionId: number, high: number][] = [];
  endsOfMessage = 0;
  features = HypervisorFeature.synic | HypervisorFeature.hypercall | HypervisorFeature.vpIndex;
  privileges = HypervisorPrivilege.postMessages | HypervisorPrivilege.signalEvents;
  advice: number = HypervisorAdvice.noAutoEoi;
  /** Set when SINT 2 was raised and nobody has looked yet. */
  interruptPending = false;
  /** What a posted message comes to. */
  posted: (connectionId: number, message: Uint8Array) => HypercallStatus = () =>
    HypercallStatus.invalidConnectionId;
  readonly #backlog: Uint8Array[] = [];

  constructor(memory: GuestMemory) {
    this.memory = memory;
    for (let sint = 0; sint < 16; sint++) this.msrs.set(Msr.sint0 + sint, Sint.reset);
  }

  cpuid(leaf: number): CpuidResult {
    const nothing = { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    switch (leaf) {
      case CpuidLeaf.interface:
        return { ...nothing, eax: HYPERVISOR_INTERFACE };
      case CpuidLeaf.features:
        return { ...nothing, eax: this.features, ebx: this.privileges };
      case CpuidLeaf.recommendations:
        return { ...nothing, eax: this.advice };
      default:
        return nothing;
    }
  }

  readMsr(msr: number): bigint {
    return msr === Msr.vpIndex ? BigInt(VP_INDEX) : (this.msrs.get(msr) ?? 0n);
  }

  writeMsr(msr: number, value: bigint): void {
    if (msr === Msr.eom) {
      this.endsOfMessage++;
      this.deliver();
      return;
    }
    this.written.push([msr, value]);
    this.msrs.set(msr, value);
  }

  hypercall(control: number, inputLow: number, inputHigh: number): number {
    if ((this.readMsr(Msr.hypercall) & MSR_ENABLE) === 0n)
      return HypercallStatus.invalidHypercallCode;
    if (control === (HypercallCode.signalEvent | HYPERCALL_FAST)) {
      this.signals.push([inputLow, inputHigh]);
      return HypercallStatus.success;
    }
    if (control !== HypercallCode.postMessage) return HypercallStatus.invalidHypercallCode;
    if (inputLow % 8 !== 0 || inputHigh !== 0) return HypercallStatus.invalidAlignment;
    const bytes = this.memory.copyOut(inputLow, PostMessageInput.SIZE);
    const { connectionId, messageType, payloadSize, payload } = PostMessageInput.parse(bytes)!;
    if (messageType !== SynicMessageType.channel || payloadSize > payload.byteLength)
      return HypercallStatus.invalidParameter;
    return this.posted(connectionId, payload.slice(0, payloadSize));
  }

  /** GPA of the slot of SINT 2; undefined while the SynIC takes no messages. */
  get slot(): number | undefined {
    const simp = this.readMsr(Msr.simp);
    const masked = (this.readMsr(Msr.sint0 + VMBUS_SINT) & Sint.masked) !== 0n;
    if ((simp & this.readMsr(Msr.scontrol) & MSR_ENABLE) === 0n || masked) return undefined;
    return Number(simp & MSR_PAGE_MASK) + VMBUS_SINT * MessageSlot.SIZE;
  }

  /** GPA of the event flags of SINT 2. */
  get flagsAddress(): number {
    return Number(this.readMsr(Msr.siefp) & MSR_PAGE_MASK) + VMBUS_SINT * 256;
  }

  /** Sends a channel message, now or when the slot is free. */
  send(...messages: readonly Uint8Array[]): void {
    this.#backlog.push(...messages);
    this.deliver();
  }

  /** Messages that wait for the slot. */
  get backlog(): number {
    return this.#backlog.length;
  }

  /** Writes the next message if the slot is empty; marks it pending if not. */
  deliver(): void {
    const { slot, memory } = this;
    const message = this.#backlog[0];
    if (message === undefined || slot === undefined) return;
    if (memory.words[slot >>> 2] !== SynicMessageType.none) {
      memory.bytes[slot + MessageSlot.fields.flags.offset]! |= MESSAGE_PENDING;
      return;
    }
    this.#backlog.shift();
    this.writeSlot({ messageType: SynicMessageType.channel, payload: message });
    if (this.#backlog.length > 0)
      memory.bytes[slot + MessageSlot.fields.flags.offset]! |= MESSAGE_PENDING;
  }

  /** Writes the slot whatever is in it, and raises the interrupt. */
  writeSlot(slot: Partial<MessageSlot>): void {
    const payload = slot.payload ?? new Uint8Array(0);
    const bytes = MessageSlot.emit({
      messageType: SynicMessageType.channel,
      payloadSize: payload.byteLength,
      flags: 0,
      sender: 0n,
      ...slot,
      payload,
    });
    this.memory.bytes.set(bytes, this.slot);
    this.interruptPending = true;
  }
}

/** A started CPU of a guest, and the hypervisor under it. */
export interface TestCpu {
  readonly memory: GuestMemory;
  readonly allocator: PageAllocator;
  readonly hypervisor: FakeHypervisor;
  readonly timers: VirtualTimers;
  readonly cpu: GuestCpu;
}

export function startCpu(
  options: Partial<GuestCpuOptions> & { readonly pages?: number } = {},
): TestCpu {
  const pages = options.pages ?? MEMORY_PAGES;
  const memory = new GuestMemory(new ArrayBuffer(pages * PAGE_SIZE));
  const allocator = new PageAllocator(memory, PAGE_SIZE, (pages - 1) * PAGE_SIZE);
  const hypervisor = new FakeHypervisor(memory);
  const timers = new VirtualTimers();
  const cpu = new GuestCpu({ memory, allocator, hypervisor, timers, ...options });
  cpu.start();
  return { memory, allocator, hypervisor, timers, cpu };
}

/** Takes interrupts and polls channels until there is nothing left to do; true if there was anything. */
export function runCpu({ hypervisor, cpu }: Pick<TestCpu, "hypervisor" | "cpu">): boolean {
  let did = false;
  for (let round = 0; ; round++) {
    if (round > 10_000) throw new Error("the CPU does not come to rest");
    const interrupted = hypervisor.interruptPending;
    hypervisor.interruptPending = false;
    if (interrupted) cpu.interrupt();
    if (!cpu.run() && !interrupted) return did;
    did = true;
  }
}
