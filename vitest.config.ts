import { defineConfig } from "vitest/config";
import { sources } from "./tools/sources.js";
import { watForTests } from "./tools/wat.js";

/** All packages in one: what they share is then transformed and loaded once, not for each. */
export default defineConfig({
  plugins: [sources(), watForTests()],
  test: {
    include: ["{packages,apps}/*/test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 2,
    // Files of one process share the modules that they import: loading those costs more than most tests.
    isolate: false,
    testTimeout: 30_000,
  },
});
