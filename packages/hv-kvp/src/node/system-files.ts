import { execFile } from "node:child_process";
import {
  closeSync,
  fchmodSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { KvpError } from "../errors.js";

const PROGRAM_TIMEOUT_MS = 4000;
const NEW_FILE_MODE = 0o644;

/** Runs a program without a shell. Rejects with `ERR_KVP_NETWORK` unless it succeeds. @returns Its standard output. */
export type RunProgram = (path: string, args: readonly string[]) => Promise<string>;

/** Runs a program of this system, for 4 s at most: the host does not wait much longer. */
export const runProgram: RunProgram = (path, args) =>
  new Promise((resolve, reject) => {
    const options = {
      timeout: PROGRAM_TIMEOUT_MS,
      env: { LC_ALL: "C", PATH: "/sbin:/bin:/usr/sbin:/usr/bin" },
    };
    execFile(path, args, options, (error, stdout, stderr) => {
      if (error === null) {
        resolve(stdout);
        return;
      }
      const said = stderr.trim();
      const text = `${path} ${args.join(" ")}: ${said === "" ? error.message : said}`;
      reject(new KvpError("ERR_KVP_NETWORK", text, { cause: error }));
    });
  });

/** The text of a file; empty if there is none. */
export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** Replaces a file by one that is complete, and keeps its mode; makes its directory. Throws `ERR_KVP_NETWORK`. */
export function replaceText(path: string, text: string): void {
  const made = `${path}.hv-kvp`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? NEW_FILE_MODE;
    const descriptor = openSync(made, "w", NEW_FILE_MODE);
    try {
      fchmodSync(descriptor, mode & 0o7777);
      writeFileSync(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(made, path);
  } catch (error) {
    throw new KvpError("ERR_KVP_NETWORK", `${path}: ${(error as Error).message}`, { cause: error });
  }
}
