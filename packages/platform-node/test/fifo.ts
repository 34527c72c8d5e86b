import { execFileSync } from "node:child_process";
import { constants, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Two ends in one file, to be closed by the caller: what is written can be read. Nothing blocks. */
export function openFifo(): number {
  const directory = mkdtempSync(join(tmpdir(), "hyperv-fifo-"));
  const path = join(directory, "fifo");
  execFileSync("mkfifo", [path]);
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  rmSync(directory, { recursive: true });
  return fd;
}
