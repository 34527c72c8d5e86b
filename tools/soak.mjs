// Runs the full count of a campaign, of which the test suite runs a time-boxed share.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Campaigns are test files named `NAME.soak.ts`, wherever they are. */
const campaigns = new Map(
  ["packages", "apps"].flatMap((group) =>
    readdirSync(join(root, group)).flatMap((name) => {
      const directory = join(root, group, name, "test");
      if (!existsSync(directory)) return [];
      return readdirSync(directory)
        .filter((file) => file.endsWith(".soak.ts"))
        .map((file) => /** @type {const} */ ([file.slice(0, -8), join(directory, file)]));
    }),
  ),
);

const [name = "", ...args] = process.argv.slice(2);
const file = campaigns.get(name);
if (file === undefined) {
  console.error("usage: npm run soak -- NAME [--seed N] [--count N]");
  console.error(`Campaigns: ${[...campaigns.keys()].sort().join(", ")}.`);
  process.exit(2);
}
/** @param {string} option */
const value = (option) => {
  const at = args.indexOf(option);
  return at < 0 ? undefined : args[at + 1];
};
const { status } = spawnSync("vitest", ["run", "--config", "tools/soak.vitest.ts", file], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, SOAK_SEED: value("--seed"), SOAK_COUNT: value("--count") },
});
process.exit(status ?? 1);
