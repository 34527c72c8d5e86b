import { lstatSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { basename, isAbsolute, join, resolve } from "node:path";
import { isSocketPath } from "@hyperv-is/platform-node";
import { ControlError } from "../control/control-error.js";

/** How the sockets of named machines end; a word that ends so is a path. */
const SUFFIX = ".sock";

/** Where the sockets of named machines are: a directory that is the user's alone. */
export function controlDirectory(environment: NodeJS.ProcessEnv = process.env): string {
  const { XDG_RUNTIME_DIR: runtime, XDG_CACHE_HOME: cache } = environment;
  if (runtime !== undefined && isAbsolute(runtime)) return join(runtime, "hyperv-is");
  const base = cache !== undefined && isAbsolute(cache) ? cache : join(homedir(), ".cache");
  return join(base, "hyperv-is", "run");
}

/**
 * The socket that a user means: a word with a slash in it or with `.sock` at its end is a path, any other the
 * name of a machine.
 *
 * @returns An absolute path. Throws `ERR_CONTROL_ADDRESS`.
 */
export function controlPath(address: string, directory = controlDirectory()): string {
  const isPath = address.includes("/") || address.endsWith(SUFFIX);
  if (!isPath && !/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(address))
    throw new ControlError(
      "ERR_CONTROL_ADDRESS",
      `'${address}' is no name for a machine: letters, digits, '.', '_' and '-', at most 63; a path has a '/' in it`,
    );
  const path = isPath ? resolve(address) : join(directory, address + SUFFIX);
  if (!isSocketPath(path))
    throw new ControlError("ERR_CONTROL_ADDRESS", `${path}: too long for a socket's path`);
  return path;
}

/** What a machine is called whose socket is there. */
export function machineName(path: string): string {
  return basename(path, SUFFIX);
}

/** True for the file name of a named machine's socket. */
export function isSocketName(file: string): boolean {
  return file.endsWith(SUFFIX) && !file.startsWith(".");
}

/** Makes the directory of named machines unless it is there. Throws `ERR_CONTROL_ADDRESS` if others may write to it. */
export function makeControlDirectory(directory: string): void {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new ControlError("ERR_CONTROL_ADDRESS", (cause as Error).message, { cause });
  }
  checkControlDirectory(directory);
}

/** Throws `ERR_CONTROL_ADDRESS` if the directory is not the user's alone. @returns False if there is none. */
export function checkControlDirectory(directory: string): boolean {
  const found = lstatSync(directory, { throwIfNoEntry: false });
  if (found === undefined) return false;
  const own = found.isDirectory() && found.uid === process.getuid?.();
  if (!own || (found.mode & 0o077) !== 0)
    throw new ControlError(
      "ERR_CONTROL_ADDRESS",
      `${directory}: must be a directory of yours that nobody else may enter (chmod 700)`,
    );
  return true;
}
