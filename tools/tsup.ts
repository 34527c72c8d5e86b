import { defineConfig } from "tsup";
import { watForBuilds } from "./wat.js";

/**
 * One build for every package: each entry keeps its place below `dist`, so that the JavaScript and
 * the declarations (made by `tsc`, task `types`) lie side by side as the `exports` map names them.
 */
export function library(...entries: readonly string[]): ReturnType<typeof defineConfig> {
  return defineConfig({
    entry: Object.fromEntries(entries.map((name) => [name, `src/${name}.ts`])),
    format: "esm",
    target: "node20",
    platform: "node",
    sourcemap: true,
    splitting: true,
    dts: false,
    clean: false,
    silent: true,
    // Puts numbers that are constants where their names are used, also those of other modules.
    esbuildOptions: (options) => void (options.minifySyntax = true),
    esbuildPlugins: [watForBuilds()],
  });
}
