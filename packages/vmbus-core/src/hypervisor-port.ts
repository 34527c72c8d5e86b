/** What CPUID returns for a leaf; unsigned 32-bit registers. */
export interface CpuidResult {
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/**
 * The instructions by which a guest talks to the hypervisor, as one virtual processor executes them.
 * Our guest gets an implementation from its platform; on a PC emulator the CPU's own instructions end in
 * the same code.
 */
export interface HypervisorPort {
  cpuid(leaf: number): CpuidResult;
  /** Reads a synthetic MSR. Throws on an MSR that does not exist (a general-protection fault). */
  readMsr(msr: number): bigint;
  writeMsr(msr: number, value: bigint): void;
  /**
   * Executes a hypercall.
   * @param control - The low 32 bits of the hypercall input value: call code, bit 16 for a fast call.
   * @param inputLow - Low half of the input GPA, or of the input itself in a fast call.
   * @returns Status: the low 16 bits of the result, one of `HypercallStatus`.
   */
  hypercall(control: number, inputLow: number, inputHigh: number): number;
}
