import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import binaryen from "binaryen";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EmulatorError } from "../src/emulator/emulator-error.js";
import { patchModule } from "../src/emulator/module-patch.js";
import { selfTest } from "../src/emulator/self-test.js";
import { emulatorModule } from "../src/node/index.js";

const original = readFileSync(
  join(dirname(createRequire(import.meta.url).resolve("v86")), "v86.wasm"),
);
let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "hyperv-pc-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** The code of the error that a promise rejects with. */
async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    if (!(error instanceof EmulatorError)) throw error;
    return error.code;
  }
}

/** The emulator's module with something changed, as another version may be. */
function changed(change: (module: binaryen.Module) => void, hasNames: boolean): Uint8Array {
  const module = binaryen.readBinary(original);
  change(module);
  binaryen.setDebugInfo(hasNames);
  const bytes = module.emitBinary();
  module.dispose();
  return bytes;
}

describe("the emulator's module", () => {
  test("is patched once, passes its test, and then comes from the cache", async () => {
    const cache = join(directory, "cache");
    await emulatorModule(cache);
    const [file, ...others] = readdirSync(cache);
    expect([file!.endsWith(".wasm"), others]).toEqual([true, []]);
    const patched = readFileSync(join(cache, file!));
    // What is in the cache is what is used: another module there fails its test.
    writeFileSync(join(cache, file!), original);
    expect(await codeOf(emulatorModule(cache))).toBe("ERR_EMULATOR_SELF_TEST");
    writeFileSync(join(cache, file!), patched);
    await emulatorModule(cache);
    // One that was cut off is no module, and is made again.
    writeFileSync(join(cache, file!), patched.subarray(0, 1000));
    await emulatorModule(cache);
    expect(Buffer.compare(readFileSync(join(cache, file!)), patched)).toBe(0);
  });

  test("is used without a cache where there can be none", async () => {
    const file = join(directory, "file");
    writeFileSync(file, "");
    await emulatorModule(join(file, "cache"));
    mkdirSync(join(directory, "empty"));
    expect(readdirSync(join(directory, "empty"))).toEqual([]);
  });

  test("does not fit if an instruction is missing", () => {
    const other = changed((module) => module.removeExport("instr_0FA2"), true);
    expect(() => patchModule(other)).toThrow(/instr_0FA2/);
  });

  test("does not fit if its functions have no names", () => {
    const bytes = changed(() => undefined, false);
    expect(() => patchModule(bytes)).toThrow(/trigger_gp/);
  });

  test("does not fit if it is something else", () => {
    expect(() => patchModule(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]))).toThrow(EmulatorError);
  });

  test("fails its test if it is not patched", async () => {
    const { compile } = WebAssembly;
    expect(await codeOf(selfTest(await compile(original)))).toBe("ERR_EMULATOR_SELF_TEST");
  });
});
