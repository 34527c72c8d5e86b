export { EmulatorError, type EmulatorErrorCode } from "./emulator/emulator-error.js";
export { PcError, type PcErrorCode } from "./pc-error.js";
export { SerialConsole } from "./serial-console.js";
