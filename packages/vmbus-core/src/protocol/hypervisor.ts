/** CPUID leaves in which a hypervisor describes itself to its guest. */
export const CpuidLeaf = {
  /** EAX: highest leaf; EBX, ECX, EDX: `HYPERVISOR_VENDOR`. */
  maximum: 0x4000_0000,
  /** EAX: `HYPERVISOR_INTERFACE`. */
  interface: 0x4000_0001,
  /** EAX: build; EBX: version, major in the high half. */
  version: 0x4000_0002,
  /** EAX: `HypervisorFeature`; EBX: `HypervisorPrivilege`; EDX: `HypervisorMiscFeature`. */
  features: 0x4000_0003,
  /** EAX: `HypervisorAdvice`. */
  recommendations: 0x4000_0004,
  /** EAX: virtual processors; EBX: logical processors. */
  limits: 0x4000_0005,
  hardwareFeatures: 0x4000_0006,
} as const;

/** Bit of ECX of the ordinary CPUID leaf 1 that announces a hypervisor. */
export const CPUID_1_ECX_HYPERVISOR = 0x8000_0000;

/** "Hv#1" in EAX of leaf `CpuidLeaf.interface`. */
export const HYPERVISOR_INTERFACE = 0x3123_7648;

/** "Microsoft Hv" as EBX, ECX, EDX of leaf `CpuidLeaf.maximum`. */
export const HYPERVISOR_VENDOR = [0x7263_694d, 0x666f_736f, 0x7648_2074] as const;

/** Bits of EAX of leaf `CpuidLeaf.features`: the synthetic MSRs a partition may use. */
export const HypervisorFeature = {
  vpRuntime: 1 << 0,
  referenceCounter: 1 << 1,
  synic: 1 << 2,
  syntheticTimers: 1 << 3,
  apic: 1 << 4,
  hypercall: 1 << 5,
  vpIndex: 1 << 6,
  reset: 1 << 7,
  statistics: 1 << 8,
  referenceTsc: 1 << 9,
  guestIdle: 1 << 10,
  timerFrequencies: 1 << 11,
} as const;

/** Bits of EBX of leaf `CpuidLeaf.features`: the hypercalls a partition may make. */
export const HypervisorPrivilege = {
  postMessages: 1 << 4,
  signalEvents: 1 << 5,
} as const;

/** Bits of EDX of leaf `CpuidLeaf.features`. */
export const HypervisorMiscFeature = {
  /** The MSRs TSC_FREQUENCY and APIC_FREQUENCY are there; goes with `HypervisorFeature.timerFrequencies`. */
  timerFrequencies: 1 << 8,
} as const;

/** Bits of EAX of leaf `CpuidLeaf.recommendations`. */
export const HypervisorAdvice = {
  /** The guest should not set auto-EOI in a SINT; FreeBSD sets it all the same, so it must work. */
  noAutoEoi: 1 << 9,
} as const;

/** Numbers of the synthetic model-specific registers. Each holds 64 bits. */
export const Msr = {
  guestOsId: 0x4000_0000,
  hypercall: 0x4000_0001,
  vpIndex: 0x4000_0002,
  /** Read-only; counts units of 100 ns. */
  timeReferenceCount: 0x4000_0020,
  /** Read-only; Hz of the time-stamp counter. */
  tscFrequency: 0x4000_0022,
  /** Read-only; Hz of the local APIC's timer, undivided. */
  apicFrequency: 0x4000_0023,
  vpAssistPage: 0x4000_0073,
  scontrol: 0x4000_0080,
  /** Read-only; `SYNIC_VERSION`. */
  sversion: 0x4000_0081,
  /** Event-flags page. */
  siefp: 0x4000_0082,
  /** Message page. */
  simp: 0x4000_0083,
  /** Any value written: a message slot may be free, look at the queue. */
  eom: 0x4000_0084,
  /** SINT0; SINTn is `sint0 + n`. */
  sint0: 0x4000_0090,
} as const;

/** What the MSR SVERSION reads. */
export const SYNIC_VERSION = 1;

/** Bit 0 of SCONTROL, SIEFP, SIMP and HYPERCALL; the last three name a page from bit 12 on. */
export const MSR_ENABLE = 1n;

/** Bits of SIEFP, SIMP and HYPERCALL that are the GPA of the page they name. */
export const MSR_PAGE_MASK = 0xffff_ffff_ffff_f000n;

/** Fields of the MSRs SINT0 to SINT15. */
export const Sint = {
  vectorMask: 0xffn,
  masked: 1n << 16n,
  autoEoi: 1n << 17n,
  /** Flags are set and messages written, but no interrupt is raised. */
  polling: 1n << 18n,
  /** Value after reset: masked. */
  reset: 1n << 16n,
} as const;

/** Synthetic interrupt sources of a virtual processor. */
export const SINT_COUNT = 16;

/** The source of VMBus messages and events. */
export const VMBUS_SINT = 2;

/** The source of FreeBSD's event timer. */
export const TIMER_SINT = 4;

/** Fields of the MSR GUEST_OS_ID, which must be non-zero before a hypercall is made. */
export const GuestOsId = {
  openSource: 1n << 63n,
  /** OS type in bits 56 to 62. */
  typeShift: 56n,
  linux: 1n,
  freebsd: 2n,
} as const;
