export {
  bootPc,
  PcMachine,
  type PcEnd,
  type PcHost,
  type PcOptions,
  type PcStats,
} from "./pc-machine.js";
export { cacheDirectory, emulatorModule } from "./module-cache.js";
