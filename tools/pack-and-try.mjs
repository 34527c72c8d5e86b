// Packs every published package, installs each with plain npm in an empty folder, and runs the first
// JavaScript example of its README there: what a user does first must work. What the example imports, and
// every other entry, must also compile in a strict program that has no library but the language's and Node's.
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const [resultFile] = process.argv.slice(2);
const work = mkdtempSync(join(tmpdir(), "hyperv-is-pack-"));
process.env["PATH"] = `${join(root, "node_modules", ".bin")}:${process.env["PATH"] ?? ""}`;

/** @param {string} command @param {readonly string[]} args @param {string} cwd */
function run(command, args, cwd) {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    timeout: 300_000,
  });
  return { ok: status === 0, output: `${stdout}${stderr}` };
}

/** The version of Node's declarations that the workspace itself is compiled with. */
const nodeTypes = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).devDependencies[
  "@types/node"
];

/**
 * A module that imports what an example imports, and each entry of the package that has declarations.
 * @param {string} example @param {string} name @param {Record<string, string | Record<string, string>>} entries
 */
function typedProgram(example, name, entries) {
  const imports = example.match(/^import\s[^;]*;$/gm) ?? [];
  const typed = Object.entries(entries).filter(
    ([, target]) => typeof target !== "string" && "types" in target,
  );
  return [
    ...imports,
    ...typed.map(
      ([path], index) => `export * as entry${index} from ${JSON.stringify(name + path.slice(1))};`,
    ),
    "",
  ].join("\n");
}

/** @type {{ name: string, directory: string, tarball: string, needs: string[] }[]} */
const packages = [];
for (const group of ["packages", "apps"]) {
  for (const entry of readdirSync(join(root, group))) {
    const directory = join(root, group, entry);
    if (!existsSync(join(directory, "package.json"))) continue;
    const manifest = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
    if (manifest.private === true) continue;
    const packed = run("pnpm", ["pack", "--json", "--pack-destination", work], directory);
    if (!packed.ok) throw new Error(`pnpm pack of ${manifest.name} failed:\n${packed.output}`);
    const { filename } = JSON.parse(packed.output.slice(packed.output.indexOf("{")));
    packages.push({
      name: manifest.name,
      directory,
      tarball: join(work, filename.split("/").at(-1)),
      needs: Object.keys(manifest.dependencies ?? {}).filter((name) =>
        name.startsWith("@hyperv-is/"),
      ),
    });
  }
}

/** A package and, since none of them is on the registry yet, the packages that it needs. @param {string} name @returns {Set<string>} */
function closure(name, seen = new Set()) {
  const found = packages.find((one) => one.name === name);
  if (found === undefined || seen.has(name)) return seen;
  seen.add(name);
  for (const need of found.needs) closure(need, seen);
  return seen;
}

const results = packages.map(({ name, directory }) => {
  const home = join(work, name.replace(/[@/]/g, "-"));
  mkdirSync(home);
  const tarballs = Object.fromEntries(
    packages
      .filter((one) => closure(name).has(one.name))
      .map((one) => [one.name, `file:${one.tarball}`]),
  );
  const own = tarballs[name];
  writeFileSync(
    join(home, "package.json"),
    JSON.stringify({
      private: true,
      type: "module",
      dependencies: { [name]: own },
      devDependencies: { "@types/node": nodeTypes },
      overrides: tarballs,
    }),
  );
  const installed = run("npm", ["install", "--no-audit", "--no-fund", "--loglevel=error"], home);
  if (!installed.ok) return report(name, false, installed.output);
  const readme = existsSync(join(directory, "README.md"))
    ? readFileSync(join(directory, "README.md"), "utf8")
    : "";
  const example = /```(?:js|ts|javascript|typescript)\n([\s\S]*?)```/.exec(readme)?.[1];
  if (example === undefined) return report(name, false, "its README has no example");
  writeFileSync(join(home, "example.mjs"), example);
  const ran = run("node", ["example.mjs"], home);
  if (!ran.ok) return report(name, false, ran.output);
  const { exports } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
  writeFileSync(join(home, "typed.mts"), typedProgram(example, name, exports));
  const options = "--strict --noEmit --target es2022 --lib es2024 --module nodenext --types node";
  const compiled = run("tsc", [...options.split(" "), "typed.mts"], home);
  return report(name, compiled.ok, compiled.output);
});

/** @param {string} name @param {boolean} ok @param {string} output */
function report(name, ok, output) {
  console.log(`${ok ? "ok" : "FAILED"} ${name}`);
  if (!ok) console.log(output);
  return { name, ok };
}

if (resultFile !== undefined) writeFileSync(resultFile, JSON.stringify(results));
rmSync(work, { recursive: true, force: true });
process.exit(results.every(({ ok }) => ok) ? 0 : 1);
