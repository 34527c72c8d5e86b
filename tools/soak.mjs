// Runs campaigns in full, of which the test suite runs a share.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

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

const help = `usage: npm run soak -- NAME... [--seed N] [--count N] [--report FILE]

Runs campaigns in full. Each prints its seed.

  --seed N       repeats the run that printed it
  --count N      does so many of whatever the campaign counts, in place of all
  --report FILE  writes the results as JSON, too

Campaigns: ${[...campaigns.keys()].sort().join(", ")}.
`;

/** @returns {never} */
function usage(wrong = "") {
  process.stderr.write(
    wrong === "" ? help : `${wrong}\n'npm run soak -- --help' lists what there is.\n`,
  );
  process.exit(2);
}

function commandLine() {
  try {
    return parseArgs({
      options: {
        seed: { type: "string" },
        count: { type: "string" },
        report: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
      allowPositionals: true,
    });
  } catch (error) {
    return usage(/** @type {Error} */ (error).message);
  }
}

const { positionals: names, values } = commandLine();
if (values.help === true) {
  process.stdout.write(help);
  process.exit(0);
}
if (names.length === 0) usage();
const files = names.map((name) => campaigns.get(name) ?? usage(`There is no campaign '${name}'.`));
for (const option of /** @type {const} */ (["seed", "count"]))
  if (!/^[0-9]*$/.test(values[option] ?? "")) usage(`--${option} is a number.`);
const report =
  values.report === undefined
    ? []
    : ["--reporter=default", "--reporter=json", `--outputFile.json=${values.report}`];
const argv = ["run", "--config", "tools/soak.vitest.ts", ...report, ...files];
const { status } = spawnSync("vitest", argv, {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, SOAK_SEED: values.seed, SOAK_COUNT: values.count },
});
process.exit(status ?? 1);
