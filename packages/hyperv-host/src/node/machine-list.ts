import { readdirSync } from "node:fs";
import { join } from "node:path";
import { removeDeadSocket } from "@hyperv-is/platform-node";
import { checkControlDirectory, controlDirectory, isSocketName } from "./control-address.js";

/**
 * The sockets of the named machines that run, by name; those of machines that are gone are removed.
 *
 * Rejects with `ERR_CONTROL_ADDRESS` if the directory is not the user's alone.
 */
export async function runningMachines(directory = controlDirectory()): Promise<string[]> {
  if (!checkControlDirectory(directory)) return [];
  const paths = readdirSync(directory)
    .filter(isSocketName)
    .sort()
    .map((file) => join(directory, file));
  const occupants = await Promise.all(paths.map((path) => removeDeadSocket(path)));
  return paths.filter((_, index) => occupants[index] === "listener");
}
