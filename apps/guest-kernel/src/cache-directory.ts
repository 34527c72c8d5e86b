import { homedir } from "node:os";
import { join } from "node:path";

/** Where the program keeps what it can make again: the user's own, so that nobody else is in the way. */
export function cacheDirectory(): string {
  return join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "hyperv-is");
}
