// Who may import whom: the table of docs/architecture.md, checked on every source file.
import { readFileSync, readdirSync, existsSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const SCOPE = "@hyperv-is/";

/**
 * For each package, what its `src` may import of ours. A name ending in `/protocol` allows only that
 * entry. Files below `src/node` and `src/bin` may also import `platform-node` and `node:*`.
 * @type {Record<string, readonly string[]>}
 */
const allowed = {
  "vmbus-core": [],
  vhd: [],
  "hv-carp": [],
  "hv-storvsc": ["vmbus-core"],
  "hv-netvsc": ["vmbus-core"],
  "hv-utils": ["vmbus-core"],
  "hv-kvp": ["vmbus-core", "hv-utils"],
  "hv-vss": ["vmbus-core", "hv-utils"],
  "hot-plug": ["vmbus-core", "hv-storvsc"],
  "platform-node": ["vmbus-core"],
  "hyperv-pc": ["hyperv-host"],
  "hyperv-host": ["vmbus-core", "vhd", "*/protocol"],
  conformance: ["vmbus-core", "*/protocol"],
};

/** Packages whose whole source is for Node. */
const nodePackages = new Set(["platform-node"]);

/** @param {string} directory @returns {string[]} */
function sources(directory) {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return sources(path);
    return entry.name.endsWith(".ts") ? [path] : [];
  });
}

/** @param {string} text */
function imports(text) {
  const pattern =
    /(?:^|\n)\s*(?:import|export)\s[^;]*?from\s+"([^"]+)"|(?:^|\n)\s*import\s+"([^"]+)"|import\("([^"]+)"\)/g;
  return [...text.matchAll(pattern)].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

const problems = [];
for (const name of readdirSync(join(root, "packages"))) {
  const rule = allowed[name];
  if (rule === undefined) {
    problems.push(`packages/${name}: not in the table of tools/boundaries.mjs`);
    continue;
  }
  const base = join(root, "packages", name, "src");
  for (const file of sources(base)) {
    const inside = relative(base, file);
    const forNode = nodePackages.has(name) || /^(node|bin)\//.test(inside);
    for (const target of imports(readFileSync(file, "utf8"))) {
      const where = `${relative(root, file)} imports ${target}`;
      if (target.startsWith("node:")) {
        if (!forNode) problems.push(`${where}: only src/node, src/bin and platform-node may`);
      } else if (target.startsWith(SCOPE)) {
        const [other = "", ...entry] = target.slice(SCOPE.length).split("/");
        const ok =
          rule.includes(other) ||
          (rule.includes("*/protocol") && entry.join("/") === "protocol") ||
          (forNode && other === "platform-node") ||
          (forNode && other === name);
        if (!ok)
          problems.push(`${where}: ${name} may import ${rule.join(", ") || "nothing of ours"}`);
      } else if (/\.\.?\/.*\b(node|bin)\//.test(target) && !forNode) {
        problems.push(`${where}: nothing outside src/node and src/bin may`);
      }
    }
  }
}

// Nobody depends on conformance, not even to test: turbo would refuse the cycle.
for (const group of ["packages", "apps"]) {
  for (const name of readdirSync(join(root, group))) {
    const file = join(root, group, name, "package.json");
    if (!existsSync(file)) continue;
    const manifest = JSON.parse(readFileSync(file, "utf8"));
    const all = { ...manifest.dependencies, ...manifest.devDependencies };
    if (`${SCOPE}conformance` in all) problems.push(`${group}/${name} depends on conformance`);
  }
}

for (const problem of problems) console.error(problem);
process.exit(problems.length === 0 ? 0 : 1);
