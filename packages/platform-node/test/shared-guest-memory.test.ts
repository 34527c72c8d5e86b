import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { Worker } from "node:worker_threads";
import { afterEach, describe, expect, test, vi } from "vitest";
import { attachGuestMemory, createGuestMemory, MEMORY_UNIT_BYTES } from "@hyperv-is/platform-node";

describe("shared guest memory", () => {
  afterEach(() => vi.unstubAllEnvs());

  test("another thread sees the same bytes", async () => {
    const memory = createGuestMemory(2 * MEMORY_UNIT_BYTES);
    expect(memory.sizeBytes).toBe(2 * MEMORY_UNIT_BYTES);
    expect(memory.buffer).toBeInstanceOf(SharedArrayBuffer);
    memory.words[1] = 7;
    const worker = new Worker(
      `const { workerData } = require("node:worker_threads");
       const words = new Int32Array(workerData.buffer);
       words[words.length - 1] = words[1] + 1;`,
      { eval: true, workerData: memory.wasm, execArgv: [] },
    );
    await new Promise((resolve) => worker.once("exit", resolve));
    expect(memory.words.at(-1)).toBe(8);
  });

  test("attaches to what another thread sent, the memory or its buffer", () => {
    const memory = createGuestMemory(MEMORY_UNIT_BYTES);
    memory.bytes[9] = 9;
    expect(attachGuestMemory(memory.wasm).wasm).toBe(memory.wasm);
    expect(attachGuestMemory(memory.wasm).bytes[9]).toBe(9);
    expect(attachGuestMemory(memory.buffer).bytes[9]).toBe(9);
    expect(attachGuestMemory(new ArrayBuffer(4096)).sizeBytes).toBe(4096);
  });

  test("rings are WebAssembly's work, unless the environment or a bare buffer says otherwise", () => {
    const { wasm, ringCore } = createGuestMemory(MEMORY_UNIT_BYTES);
    expect(ringCore).toBeDefined();
    // Calls of one function are faster than calls of several.
    expect(attachGuestMemory(wasm).ringCore).toBe(ringCore);
    expect(attachGuestMemory(wasm.buffer).ringCore).toBeUndefined();
    vi.stubEnv("HYPERV_IS_RING_CORE", "off");
    expect(attachGuestMemory(wasm).ringCore).toBeUndefined();
    vi.stubEnv("HYPERV_IS_RING_CORE", "on");
    expect(attachGuestMemory(wasm).ringCore).toBe(ringCore);
    vi.stubEnv("HYPERV_IS_RING_CORE", "no");
    expect(() => attachGuestMemory(wasm)).toThrow(
      expect.objectContaining({ code: "ERR_BAD_SETTING" }) as Error,
    );
  });

  test("4 GiB, to the last byte", () => {
    const memory = createGuestMemory(2 ** 32);
    expect(memory.sizeBytes).toBe(2 ** 32);
    memory.bytes[2 ** 32 - 1] = 1;
    expect(memory.words[2 ** 30 - 1]).toBe(1 << 24);
    expect(Atomics.add(memory.words, 2 ** 30 - 1, 1)).toBe(1 << 24);
    expect(memory.contains(2 ** 32 - 1, 1)).toBe(true);
  });

  test.each([0, -65_536, 4096, 65_537, 2 ** 32 + 65_536, NaN])("%d bytes are refused", (size) => {
    expect(() => createGuestMemory(size)).toThrow(RangeError);
  });

  // Elsewhere a process cannot have its address space limited from a shell.
  test.runIf(process.platform === "linux")("says what to do when there is not enough", () => {
    const built = createRequire(import.meta.url).resolve("../dist/index.js");
    const script = `
      import { createGuestMemory } from ${JSON.stringify(built)};
      const kept = [];
      try { for (;;) kept.push(createGuestMemory(2 ** 32)); }
      catch (error) { console.log(error.code, error.message); }`;
    const { stdout, stderr } = spawnSync(
      "sh",
      [
        "-c",
        'ulimit -v 40000000 && exec "$0" --input-type=module -e "$1"',
        process.execPath,
        script,
      ],
      { encoding: "utf8" },
    );
    expect(stderr).toBe("");
    expect(stdout).toMatch(/^ERR_MEMORY_UNAVAILABLE .*4096 MiB .*give the guest less/);
  });
});
