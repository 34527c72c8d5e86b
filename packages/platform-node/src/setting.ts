import { PlatformError } from "./errors.js";

/**
 * Whether something that is used unless the environment says otherwise is to be used.
 *
 * @throws PlatformError `ERR_BAD_SETTING`
 */
export function isWanted(name: string): boolean {
  const setting = process.env[name] ?? "";
  if (setting !== "" && setting !== "on" && setting !== "off")
    throw new PlatformError("ERR_BAD_SETTING", `${name} is "on" or "off", not "${setting}"`);
  return setting !== "off";
}
