import binaryen from "binaryen";
import { EmulatorError } from "./emulator-error.js";
import { HookAnswer, HookedInstruction } from "./hooks.js";

/** One function per instruction, exported under its opcode. */
const INSTRUCTIONS: readonly (readonly [string, HookedInstruction])[] = [
  ["instr_0FA2", HookedInstruction.cpuid],
  ["instr_0F30", HookedInstruction.wrmsr],
  ["instr_0F32", HookedInstruction.rdmsr],
];

/** Ends of the names that the emulator's internal functions have in the name section. */
const TRIGGER_GP = "3cpu3cpu10trigger_gp";
const ACKNOWLEDGE = "4apic15acknowledge_irq";

/** Byte address of EAX, in the module's memory. */
const EAX = 64;

/** What the emulator is compiled with. Any more, and Node 20 refuses the result. */
const FEATURES = [
  binaryen.Features.MutableGlobals,
  binaryen.Features.NontrappingFPToInt,
  binaryen.Features.SIMD128,
  binaryen.Features.BulkMemory,
  binaryen.Features.BulkMemoryOpt,
  binaryen.Features.SignExt,
  binaryen.Features.ReferenceTypes,
  binaryen.Features.Multivalue,
  binaryen.Features.CallIndirectOverlong,
  binaryen.Features.ExtendedConst,
].reduce((all, feature) => all | feature, binaryen.Features.MVP);

/**
 * Puts the hooks of a hypervisor into the module of the emulator (v86): CPUID, RDMSR and WRMSR ask
 * `hv_instruction` first, and each interrupt that the local APIC hands over is reported.
 *
 * Interpreter and compiled code call the same functions, so that wrapping their bodies catches both. Takes
 * some seconds; cache the result.
 *
 * Throws `ERR_EMULATOR_VERSION` when a function is not there, or not of the shape that is known.
 *
 * @param original - the module as its package ships it. @returns A module that needs `HookImports`.
 */
export function patchModule(original: Uint8Array): Uint8Array {
  const module = read(original);
  try {
    module.setFeatures(FEATURES);
    const { i32, none } = binaryen;
    module.addFunctionImport("hv_instruction", "env", "hv_instruction", i32, i32);
    module.addFunctionImport("hv_after_cpuid", "env", "hv_after_cpuid", i32, none);
    module.addFunctionImport("hv_acknowledge", "env", "hv_acknowledge", i32, none);
    const internal = internalFunctions(module);
    const triggerGp = internal(TRIGGER_GP);
    for (const [exported, instruction] of INSTRUCTIONS)
      hookInstruction(module, functionOfExport(module, exported), instruction, triggerGp);
    hookAcknowledge(module, internal(ACKNOWLEDGE));
    if (module.validate() === 0) throw misfit("the patched module is not valid");
    return module.emitBinary();
  } finally {
    module.dispose();
  }
}

function read(original: Uint8Array): binaryen.Module {
  try {
    return binaryen.readBinary(original);
  } catch (error) {
    throw misfit("it is not a WebAssembly module that can be read", error);
  }
}

function misfit(detail: string, cause?: unknown): EmulatorError {
  return new EmulatorError(
    "ERR_EMULATOR_VERSION",
    `the module of the emulator does not fit: ${detail}. This package needs the v86 version that its package.json names.`,
    { cause },
  );
}

function functionOfExport(module: binaryen.Module, name: string): string {
  const exported = module.getExport(name);
  if (exported === 0) throw misfit(`it does not export ${name}`);
  return binaryen.getExportInfo(exported).value;
}

/** Finds functions that are not exported, by the end of their name. */
function internalFunctions(module: binaryen.Module): (suffix: string) => string {
  const names = Array.from(
    { length: module.getNumFunctions() },
    (_, index) => binaryen.getFunctionInfo(module.getFunctionByIndex(index)).name,
  );
  return (suffix) => {
    const found = names.filter((name) => name.endsWith(suffix));
    if (found.length !== 1)
      throw misfit(`${found.length} functions have a name that ends in ${suffix}`);
    return found[0]!;
  };
}

/**
 * Moves a function's body to a function of its own. @returns The name of that.
 * @param parameters - types that it must take; it must return nothing.
 */
function moveAside(module: binaryen.Module, name: string, parameters: readonly number[]): string {
  const info = binaryen.getFunctionInfo(module.getFunction(name));
  const { params, results, vars, body } = info;
  const taken = binaryen.expandType(params);
  if (results !== binaryen.none || taken.length !== parameters.length)
    throw misfit(`${name} has other parameters or results`);
  if (taken.some((type, index) => type !== parameters[index]))
    throw misfit(`${name} has parameters of other types`);
  const moved = `${name}$emulator`;
  module.addFunction(moved, params, results, vars, module.copyExpression(body));
  module.removeFunction(name);
  return moved;
}

function hookInstruction(
  module: binaryen.Module,
  name: string,
  instruction: HookedInstruction,
  triggerGp: string,
): void {
  const { i32, none } = binaryen;
  const original = moveAside(module, name, []);
  const emulate = module.call(original, [], none);
  const isCpuid = instruction === HookedInstruction.cpuid;
  const [answer, leaf] = [0, 1];
  const body = module.block(null, [
    module.local.set(leaf, module.i32.load(EAX, 4, module.i32.const(0))),
    module.local.set(answer, module.call("hv_instruction", [module.i32.const(instruction)], i32)),
    module.if(
      module.i32.eqz(module.local.get(answer, i32)),
      isCpuid
        ? module.block(null, [
            emulate,
            module.call("hv_after_cpuid", [module.local.get(leaf, i32)], none),
          ])
        : emulate,
      module.if(
        module.i32.eq(module.local.get(answer, i32), module.i32.const(HookAnswer.fault)),
        module.call(triggerGp, [module.i32.const(0)], none),
      ),
    ),
  ]);
  module.addFunction(name, none, none, [i32, i32], body);
}

/** The function stores what it acknowledged through its parameter: a byte that is 0 for nothing, and the vector. */
function hookAcknowledge(module: binaryen.Module, name: string): void {
  const { i32, none } = binaryen;
  const original = moveAside(module, name, [i32]);
  const result = module.local.get(0, i32);
  const body = module.block(null, [
    module.call(original, [module.local.get(0, i32)], none),
    module.if(
      module.i32.load8_u(0, 1, result),
      module.call("hv_acknowledge", [module.i32.load8_u(1, 1, module.local.get(0, i32))], none),
    ),
  ]);
  module.addFunction(name, i32, none, [], body);
}
