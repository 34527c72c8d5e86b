import { describe, test } from "vitest";
import type { Case } from "./suite.js";

/** Registers a compliance suite with vitest: one test per case, against one implementation. */
export function runSuite<Setup>(
  name: string,
  suite: readonly Case<Setup>[],
  setup: Setup,
  timeoutMs = 60_000,
): void {
  describe(name, () => {
    test.each(suite.map((entry) => [entry.name, entry] as const))(
      "%s",
      async (_name, entry) => {
        await entry.run(setup);
      },
      timeoutMs,
    );
  });
}
