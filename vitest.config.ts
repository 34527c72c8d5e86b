import { defineConfig } from "vitest/config";
import { sources } from "./tools/sources.js";
import { watForTests } from "./tools/wat.js";

/** Files with tests that count garbage. */
const ALLOCATIONS = "{packages,apps}/*/test/{*allocation*,tap-bridge,tap-port}.test.ts";

/** Some files, which share processes or have one each. */
const group = (name: string, include: string, exclude: string[] = [], isolate = false) => ({
  extends: true as const,
  test: { name, include: [include], exclude, isolate },
});

/**
 * Files of one process share the modules that they import: loading those costs more than most tests. But code that many
 * kinds of tests have run is slow for each of them, so that packages with much to compute keep to themselves, and
 * whoever counts garbage has a process of his own, where the engine knows nothing but what is counted.
 */
export default defineConfig({
  plugins: [sources(), watForTests()],
  test: {
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 30_000,
    projects: [
      group("allocations", ALLOCATIONS, [], true),
      group("vhd", "packages/vhd/test/**/*.test.ts"),
      group("hyperv-pc", "packages/hyperv-pc/test/**/*.test.ts"),
      group("rest", "{packages,apps}/*/test/**/*.test.ts", [
        ALLOCATIONS,
        "packages/{vhd,hyperv-pc}/**",
      ]),
    ],
  },
});
