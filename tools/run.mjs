// Runs one of the root's scripts on a machine that has only Node and npm: installs the workspace when
// the lock file asks for it, builds what is stale, then hands over to the program.
// Standard output belongs to the program; installing and building speak on standard error.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const [name = "", ...args] = process.argv.slice(2);

process.env["PATH"] = join(root, "node_modules", ".bin") + delimiter + (process.env["PATH"] ?? "");
process.env["TURBO_TELEMETRY_DISABLED"] = "1";
process.env["DO_NOT_TRACK"] = "1";
// `npm run -s` silences each npm and pnpm below it too: a failed installation would not say why.
delete process.env["npm_config_loglevel"];

/** @param {string} path */
const read = (path) => (existsSync(join(root, path)) ? readFileSync(join(root, path), "utf8") : "");

/**
 * @param {string} command
 * @param {readonly string[]} argv
 * @param {import("node:child_process").StdioOptions} stdio
 * @param {string} cwd
 */
function run(command, argv, stdio = "inherit", cwd = root) {
  const { status, signal, error } = spawnSync(command, argv, { stdio, cwd });
  if (error) throw error;
  return signal ? 128 : (status ?? 1);
}

/**
 * Runs a program that may take a while to end in good order when it is interrupted, and waits for that.
 * What a terminal sends reaches the program anyway; what is sent to this process alone is passed on.
 *
 * @param {readonly string[]} argv
 * @param {string} cwd
 */
async function runProgram(argv, cwd = root) {
  const program = spawn("node", argv, { stdio: "inherit", cwd });
  for (const signal of ["SIGINT", "SIGHUP"]) process.on(signal, () => undefined);
  process.on("SIGTERM", () => program.kill("SIGTERM"));
  const [status, signal] = /** @type {[number | null, NodeJS.Signals | null]} */ (
    await once(program, "exit")
  );
  return signal ? 128 + constants.signals[signal] : (status ?? 1);
}

async function install() {
  if (read("pnpm-lock.yaml") === read("node_modules/.pnpm/lock.yaml")) return;
  const manifest = /** @type {{ packageManager: string }} */ (JSON.parse(read("package.json")));
  console.error("Installing the workspace (once per change of pnpm-lock.yaml) ...");
  const argv = ["-y", manifest.packageManager, "install", "--frozen-lockfile"];
  const pnpm = spawn("npx", argv, { stdio: ["inherit", "pipe", "inherit"], cwd: root });
  const closed = /** @type {Promise<[number | null]>} */ (once(pnpm, "close"));
  // Programs of the workspace can be linked only once they are built, which comes next.
  for await (const line of createInterface({ input: pnpm.stdout }))
    if (!line.includes("Failed to create bin")) console.error(line);
  const [status] = await closed;
  if (status !== 0) {
    console.error(
      "The installation failed; the lines above say why. Node 20.19 or newer is needed.",
    );
    process.exit(status ?? 1);
  }
}

/** @param {string | undefined} program - builds what it needs, or everything */
function build(program) {
  const filter = program === undefined ? [] : [`--filter=@hyperv-is/${program}...`];
  const turbo = spawnSync("turbo", ["run", "build", "--output-logs=errors-only", ...filter], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  if (turbo.status === 0) return;
  process.stderr.write(turbo.stdout + turbo.stderr);
  process.exit(turbo.status ?? 1);
}

/** The programs of the workspace: each runs from its build, in the caller's directory. */
const programs = {
  "guest-kernel": "apps/guest-kernel/dist/bin/guest-kernel.js",
  "hyperv-host": "packages/hyperv-host/dist/bin/hyperv-host.js",
  "hyperv-pc": "packages/hyperv-pc/dist/bin/hyperv-pc.js",
  vhd: "packages/vhd/dist/bin/vhd.js",
  "hv-kvp": "packages/hv-kvp/dist/bin/hv-kvp.js",
  bench: "apps/bench/dist/index.js",
};

/** @type {Record<string, () => number | Promise<number>>} */
const commands = {
  build: () => 0,
  start: () => runProgram([programs["guest-kernel"], "demo", ...args]),
  test: () => run("vitest", ["run", ...args]),
  soak: () => run("node", ["tools/soak.mjs", ...args]),
  typecheck: () => run("tsc", ["-p", "tsconfig.json", ...args]),
  lint: () =>
    run("eslint", [".", "--max-warnings=0", ...args]) || run("node", ["tools/boundaries.mjs"]),
  format: () => run("prettier", ["--write", ".", ...args]),
};

for (const [program, file] of Object.entries(programs)) {
  commands[program] = () =>
    runProgram([join(root, file), ...args], process.env["INIT_CWD"] ?? root);
}

const command = commands[name];
if (command === undefined) {
  console.error(`Unknown command '${name}'. Known: ${Object.keys(commands).sort().join(", ")}.`);
  process.exit(2);
}
await install();
const program = name === "start" ? "guest-kernel" : name;
if (!["lint", "format", "typecheck"].includes(name))
  build(program in programs ? program : undefined);
process.exit(await command());
