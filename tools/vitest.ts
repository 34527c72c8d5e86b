import { defineProject } from "vitest/config";

/** The sources of the workspace are tested, not their builds; only workers load what was built. */
export const conditions = ["@hyperv-is/source", "module", "node", "default"];

/** A package's vitest project: its tests, resolved against sources. */
export function project(name: string): ReturnType<typeof defineProject> {
  return defineProject({
    resolve: { conditions },
    ssr: { resolve: { conditions, externalConditions: conditions } },
    test: {
      name: `@hyperv-is/${name}`,
      include: ["test/**/*.test.ts"],
      pool: "forks",
      testTimeout: 30_000,
    },
  });
}
