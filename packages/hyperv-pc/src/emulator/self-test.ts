import { EmulatorError } from "./emulator-error.js";
import type { EmulatorModule } from "./emulator-instance.js";
import { HookAnswer, HookedInstruction, type HookImports } from "./hooks.js";
import { LocalApic } from "./local-apic.js";

/** Byte addresses in the emulator's heap. */
const Heap = {
  eax: 64,
  ecx: 68,
  edx: 72,
  flags: 120,
  acpiEnabled: 552,
  instructionPointer: 556,
  memoryBytes: 812,
} as const;

const INTERRUPT_FLAG = 0x200;
const MEMORY_BYTES = 2 ** 20;
const ENTRY_BYTES = 4;

/** What the tests expect of a processor in real mode. */
const GENERAL_PROTECTION = 13;
const VECTOR = 0xfc;
const FAULT_HANDLER = 0x1230;
const INTERRUPT_HANDLER = 0x4560;
const ANSWER = 0x5a5a_1234;
const LEAF = 0x4000_0000;
const MSR = 0x4000_0002;
const TIMESTAMP_MSR = 0x10;

interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  allocate_memory(bytes: number): number;
  get_apic_addr(): number;
  reset_cpu(): void;
  rust_init(): void;
  handle_irqs(): void;
  instr_0FA2(): void;
  instr_0F30(): void;
  instr_0F32(): void;
}

/**
 * Tries each hook of a patched module once, on a processor of its own that runs no program: a module that
 * was patched in the wrong place must not run a guest.
 *
 * Rejects with `ERR_EMULATOR_SELF_TEST`, naming what failed.
 */
export async function selfTest(module: EmulatorModule): Promise<void> {
  const calls: string[] = [];
  let answer: HookAnswer = HookAnswer.pass;
  const hooks: HookImports = {
    hv_instruction: (instruction) => {
      calls.push(`instruction ${instruction}`);
      if (answer === HookAnswer.done) words[Heap.eax >> 2] = ANSWER;
      return answer;
    },
    hv_after_cpuid: (leaf) => void calls.push(`after ${leaf >>> 0}`),
    hv_acknowledge: (vector) => void calls.push(`acknowledge ${vector}`),
  };
  const instance = await instantiate(module, hooks);
  const exports = instance.exports as unknown as Exports;
  exports.rust_init();
  const memory = exports.allocate_memory(MEMORY_BYTES);
  exports.reset_cpu();
  const words = new Int32Array(exports.memory.buffer);
  const bytes = new Uint8Array(exports.memory.buffer);
  words[Heap.memoryBytes >> 2] = MEMORY_BYTES;

  const expect = (what: string, holds: boolean, ...called: readonly string[]): void => {
    const seen = calls.splice(0);
    if (holds && seen.join() === called.join()) return;
    throw new EmulatorError(
      "ERR_EMULATOR_SELF_TEST",
      `the patched emulator does not ${what} (called: ${seen.join(", ") || "nothing"})`,
    );
  };
  const handler = (vector: number, offset: number): void => {
    words[(memory + vector * ENTRY_BYTES) >> 2] = offset;
  };

  words[Heap.eax >> 2] = LEAF;
  answer = HookAnswer.done;
  exports.instr_0FA2();
  expect(
    "hand over CPUID",
    words[Heap.eax >> 2] === ANSWER,
    `instruction ${HookedInstruction.cpuid}`,
  );

  words[Heap.eax >> 2] = 0;
  answer = HookAnswer.pass;
  exports.instr_0FA2();
  expect(
    "answer CPUID itself and then ask",
    words[Heap.eax >> 2] !== 0,
    `instruction ${HookedInstruction.cpuid}`,
    "after 0",
  );

  words[Heap.ecx >> 2] = MSR;
  answer = HookAnswer.done;
  exports.instr_0F30();
  expect("hand over WRMSR", true, `instruction ${HookedInstruction.wrmsr}`);

  exports.instr_0F32();
  expect(
    "hand over RDMSR",
    words[Heap.eax >> 2] === ANSWER,
    `instruction ${HookedInstruction.rdmsr}`,
  );

  words[Heap.ecx >> 2] = TIMESTAMP_MSR;
  words[Heap.edx >> 2] = -1;
  answer = HookAnswer.pass;
  exports.instr_0F32();
  expect(
    "execute RDMSR itself",
    words[Heap.edx >> 2] !== -1,
    `instruction ${HookedInstruction.rdmsr}`,
  );

  handler(GENERAL_PROTECTION, FAULT_HANDLER);
  answer = HookAnswer.fault;
  exports.instr_0F30();
  expect(
    "make a general-protection fault",
    words[Heap.instructionPointer >> 2] === FAULT_HANDLER,
    `instruction ${HookedInstruction.wrmsr}`,
  );

  handler(VECTOR, INTERRUPT_HANDLER);
  const apic = new LocalApic(exports.memory.buffer, exports.get_apic_addr());
  bytes[Heap.acpiEnabled] = 1;
  words[Heap.flags >> 2]! |= INTERRUPT_FLAG;
  apic.request(VECTOR);
  exports.handle_irqs();
  expect(
    "report the interrupt that its local APIC hands over",
    words[Heap.instructionPointer >> 2] === INTERRUPT_HANDLER &&
      apic.isInService(VECTOR) &&
      !apic.isRequested(VECTOR),
    `acknowledge ${VECTOR}`,
  );
}

/** Nothing that the tests execute needs the emulator's own imports. */
async function instantiate(
  module: EmulatorModule,
  hooks: HookImports,
): Promise<WebAssembly.Instance> {
  const env: WebAssembly.ModuleImports = { ...hooks };
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    if (from !== "env" || name in hooks) continue;
    if (kind === "table")
      env[name] = new WebAssembly.Table({ element: "anyfunc", initial: TABLE_ENTRIES });
    else env[name] = () => 0;
  }
  try {
    return await WebAssembly.instantiate(module, { env });
  } catch (cause) {
    throw new EmulatorError("ERR_EMULATOR_SELF_TEST", "the patched module does not start", {
      cause,
    });
  }
}

/** As many as the emulator itself has at least. */
const TABLE_ENTRIES = 2048;
