import { defineConfig } from "vitest/config";
import { conditions } from "./vitest.js";

/** Campaigns take minutes to hours, one at a time, and say how far they are. */
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ["**/test/*.soak.ts"],
    pool: "forks",
    testTimeout: 24 * 3_600_000,
    disableConsoleIntercept: true,
  },
});
