import { defineConfig } from "vitest/config";
import { sources } from "./sources.js";
import { watForTests } from "./wat.js";

/** Campaigns take minutes to hours, one at a time, and say how far they are. */
export default defineConfig({
  plugins: [sources(), watForTests()],
  test: {
    include: ["**/test/*.soak.ts"],
    pool: "forks",
    testTimeout: 24 * 3_600_000,
    disableConsoleIntercept: true,
  },
});
