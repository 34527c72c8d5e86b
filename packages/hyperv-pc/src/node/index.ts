export { bootPc, PcMachine, type BootOptions, type PcEnd, type PcHost } from "./pc-machine.js";
export type { PcOptions, SnapshotOptions } from "./pc-parts.js";
export type { SavedPc } from "./snapshot.js";
export { preferQuickCompilation } from "./quick-compilation.js";
export { cacheDirectory, emulatorModule } from "./module-cache.js";
export type { EmulatorModule } from "../emulator/emulator-instance.js";
