import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { lockFile } from "../src/index.js";
import { whyNot } from "./koffi.js";

const directory = mkdtempSync(join(tmpdir(), "file-lock-"));
afterAll(() => rmSync(directory, { recursive: true }));
const path = join(directory, "pool");
writeFileSync(path, "");
const program = fileURLToPath(new URL("posix-lock.mjs", import.meta.url));

const reason = whyNot("record locks of open files");
if (reason !== undefined) console.warn(reason);

/** A process that tries to lock the file, and what it says. */
async function locker(): Promise<[child: ChildProcessWithoutNullStreams, said: string]> {
  const child = spawn(process.execPath, [program, path]);
  const [said] = (await once(child.stdout.setEncoding("utf8"), "data")) as [string];
  return [child, said.trim()];
}

async function end(child: ChildProcessWithoutNullStreams): Promise<void> {
  child.stdin.end();
  await once(child, "close");
}

describe.skipIf(reason !== undefined)("a lock of a whole file", () => {
  test("is not to be had while another process has one by fcntl", async () => {
    const descriptor = openSync(path, "r+");
    const [child, said] = await locker();
    expect(said).toBe("locked");
    expect(lockFile(descriptor)).toBe("busy");
    await end(child);
    expect(lockFile(descriptor)).toBe("locked");
    closeSync(descriptor);
  });

  test("keeps such a process out until its descriptor is closed, and no other one", async () => {
    const descriptor = openSync(path, "r+");
    expect(lockFile(descriptor)).toBe("locked");
    expect(lockFile(descriptor)).toBe("locked");
    const second = openSync(path, "r+");
    expect(lockFile(second)).toBe("busy");
    closeSync(second);
    const [early, saidEarly] = await locker();
    expect(saidEarly).toBe("busy");
    await end(early);
    closeSync(descriptor);
    const [late, saidLate] = await locker();
    expect(saidLate).toBe("locked");
    await end(late);
  });

  test("needs a file that is open for writing", () => {
    const descriptor = openSync(path, "r");
    expect(lockFile(descriptor)).toBe("unsupported");
    closeSync(descriptor);
  });
});
