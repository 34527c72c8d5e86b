import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";

const root = dirname(
  createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
);

test("a vendor's test passes as a vendor runs it", () => {
  const file = join(root, "examples", "appliance.test.mjs");
  const { status, stdout } = spawnSync(process.execPath, ["--test", file], { encoding: "utf8" });
  expect(stdout).toContain("# pass 2\n");
  expect(status).toBe(0);
});
