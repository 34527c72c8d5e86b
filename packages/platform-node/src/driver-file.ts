import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { KERNEL_INTERFACE, type DriverModule } from "@hyperv-is/vmbus-core";
import { PlatformError } from "./errors.js";

/**
 * Imports a driver module from its file, on the thread that calls. The file is one self-contained ES
 * module whose exports are those of `DriverModule`; importing it twice gives the same module.
 *
 * @param shownAs - How errors name the file: what the user called it, where `file` is a copy.
 * @throws PlatformError `ERR_BAD_MODULE`, with the cause if the file cannot be imported.
 */
export async function importDriver(file: string, shownAs = file): Promise<DriverModule> {
  let found: Partial<Record<keyof DriverModule, unknown>>;
  try {
    found = (await import(pathToFileURL(file).href)) as typeof found;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const isImport = code === "ERR_MODULE_NOT_FOUND" && existsSync(file);
    const why = isImport
      ? "it imports other files, and a module is a single one, as hv_storvsc.ko of @hyperv-is/hv-storvsc is"
      : String(cause);
    throw new PlatformError("ERR_BAD_MODULE", `${shownAs} cannot be loaded: ${why}`, { cause });
  }
  const { name, version, kernelInterface, deviceName, probe, control, queue } = found;
  if (typeof kernelInterface === "number" && kernelInterface !== KERNEL_INTERFACE)
    throw new PlatformError(
      "ERR_BAD_MODULE",
      `${shownAs} is built for kernel interface ${kernelInterface}, this kernel has ${KERNEL_INTERFACE}`,
    );
  if (
    typeof name !== "string" ||
    typeof version !== "string" ||
    kernelInterface === undefined ||
    typeof deviceName !== "string" ||
    typeof probe !== "function" ||
    typeof control !== "function" ||
    typeof queue !== "function"
  )
    throw new PlatformError("ERR_BAD_MODULE", `${shownAs} is not a driver module`);
  return found as DriverModule;
}
