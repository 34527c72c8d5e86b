import { GeneralProtectionFault, type VirtualProcessor } from "@hyperv-is/hyperv-host";
import { HookAnswer, HookedInstruction } from "./hooks.js";

/** Where the emulator keeps its registers, in bytes from the start of its heap. */
const REGISTERS = 64;
const PRIVILEGE_LEVEL = 612;

/** Order of the registers. */
const Register = { eax: 0, ecx: 1, edx: 2, ebx: 3, esp: 4, ebp: 5, esi: 6, edi: 7 } as const;

/** CPUID leaves and MSRs of hypervisors: those of the first start at, and those of the second lie in, these. */
const FIRST_LEAF = 0x4000_0000;
const LAST_LEAF = 0x4000_ffff;
const FIRST_MSR = 0x4000_0000;
const LAST_MSR = 0x4000_ffff;

/** The I/O port on which the code in the hypercall page writes; nothing on a PC is there. */
export const HYPERCALL_PORT = 0x9e;

/** What a guest calls: `out 0x9e, al; ret`. */
export const HYPERCALL_CODE: readonly number[] = [0xe6, HYPERCALL_PORT, 0xc3];

/**
 * The instructions by which a guest talks to the hypervisor, as the emulated processor meets them: takes
 * operands from its registers, lets the virtual processor answer, and puts the results back.
 * Conventions of a 32-bit guest: control EDX:EAX, input EBX:ECX, output EDI:ESI, result EDX:EAX.
 */
export class HypervisorInstructions {
  readonly #registers: Int32Array;
  readonly #privilegeLevel: Uint8Array;
  readonly #processor: VirtualProcessor;

  /** @param heap - the emulator's. */
  constructor(heap: ArrayBufferLike, processor: VirtualProcessor) {
    this.#registers = new Int32Array(heap, REGISTERS, 8);
    this.#privilegeLevel = new Uint8Array(heap, PRIVILEGE_LEVEL, 1);
    this.#processor = processor;
  }

  /** Executes an instruction if it is for the hypervisor. */
  execute(instruction: number): HookAnswer {
    switch (instruction) {
      case HookedInstruction.cpuid:
        return this.#cpuid();
      case HookedInstruction.rdmsr:
        return this.#ofMsr((msr) => {
          const value = this.#processor.readMsr(msr);
          this.#registers[Register.eax] = Number(BigInt.asIntN(32, value));
          this.#registers[Register.edx] = Number(BigInt.asIntN(32, value >> 32n));
        });
      case HookedInstruction.wrmsr:
        return this.#ofMsr((msr) => {
          const low = BigInt(this.#registers[Register.eax]! >>> 0);
          const high = BigInt(this.#registers[Register.edx]! >>> 0);
          this.#processor.writeMsr(msr, (high << 32n) | low);
        });
      default:
        return HookAnswer.pass;
    }
  }

  /** Adds the hypervisor's bits to what the emulator answered for an ordinary leaf. */
  afterCpuid(leaf: number): void {
    const { eax, ebx, ecx, edx } = this.#processor.cpuid(leaf >>> 0);
    const registers = this.#registers;
    registers[Register.eax]! |= eax;
    registers[Register.ebx]! |= ebx;
    registers[Register.ecx]! |= ecx;
    registers[Register.edx]! |= edx;
  }

  /** Makes the hypercall that the registers describe. */
  hypercall(): void {
    const registers = this.#registers;
    const status = this.#processor.hypercall(
      registers[Register.eax]!,
      registers[Register.ecx]!,
      registers[Register.ebx]!,
      registers[Register.edx],
    );
    registers[Register.eax] = status;
    registers[Register.edx] = 0;
  }

  #cpuid(): HookAnswer {
    const registers = this.#registers;
    const leaf = registers[Register.eax]! >>> 0;
    if (leaf < FIRST_LEAF || leaf > LAST_LEAF) return HookAnswer.pass;
    const { eax, ebx, ecx, edx } = this.#processor.cpuid(leaf);
    registers[Register.eax] = eax;
    registers[Register.ebx] = ebx;
    registers[Register.ecx] = ecx;
    registers[Register.edx] = edx;
    return HookAnswer.done;
  }

  /** Only the kernel may touch MSRs: of others the emulator makes the fault. */
  #ofMsr(access: (msr: number) => void): HookAnswer {
    const msr = this.#registers[Register.ecx]! >>> 0;
    if (msr < FIRST_MSR || msr > LAST_MSR || this.#privilegeLevel[0] !== 0) return HookAnswer.pass;
    try {
      access(msr);
      return HookAnswer.done;
    } catch (error) {
      if (error instanceof GeneralProtectionFault) return HookAnswer.fault;
      throw error;
    }
  }
}
