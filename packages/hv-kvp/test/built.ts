import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * The path of a file below the package. Child processes and workers run what was built, since Node 20
 * runs no TypeScript; without a build this throws.
 */
export function packageFile(path: string): string {
  const file = fileURLToPath(new URL(`../${path}`, import.meta.url));
  if (!existsSync(fileURLToPath(new URL("../dist/bin/hv-kvp.js", import.meta.url))))
    throw new Error("this test runs the built package: run 'npm run build' first");
  return file;
}
