import { defineConfig } from "tsup";
import { library } from "../../tools/tsup.js";
import { watForBuilds } from "../../tools/wat.js";

/** The kernel module: one file that imports nothing, so that any kernel of ours can load it from a disk. */
const kernelModule = defineConfig({
  entry: { hv_netvsc: "src/module.ts" },
  outExtension: () => ({ js: ".ko" }),
  format: "esm",
  target: "node20",
  platform: "neutral",
  noExternal: [/.*/],
  // From sources, what the driver does not use of the bus stays out.
  esbuildOptions(options) {
    options.conditions = ["@hyperv-is/source"];
  },
  splitting: false,
  sourcemap: false,
  dts: false,
  clean: false,
  silent: true,
  esbuildPlugins: [watForBuilds()],
});

export default [library("index", "protocol/index", "module"), kernelModule].flat();
