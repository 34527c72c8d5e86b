import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const SOURCE = "@hyperv-is/source";

interface Manifest {
  readonly name: string;
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>;
}

/** File of each entry of the workspace's packages, by what one writes to import it. */
function sourceEntries(): ReadonlyMap<string, string> {
  const entries = new Map<string, string>();
  for (const group of ["packages", "apps"])
    for (const directory of readdirSync(join(root, group))) {
      const file = join(root, group, directory, "package.json");
      if (!existsSync(file)) continue;
      const { name, exports } = JSON.parse(readFileSync(file, "utf8")) as Manifest;
      for (const [path, target] of Object.entries(exports))
        if (typeof target !== "string" && target[SOURCE] !== undefined)
          entries.set(name + path.slice(1), join(root, group, directory, target[SOURCE]));
    }
  return entries;
}

/**
 * Tests import the sources of the workspace, not its builds. Not by an export condition: vitest would
 * hand it to Node, whose workers must load what was built.
 */
export function sources(): {
  name: string;
  enforce: "pre";
  resolveId(id: string): string | undefined;
} {
  const entries = sourceEntries();
  return { name: "workspace-sources", enforce: "pre", resolveId: (id) => entries.get(id) };
}
