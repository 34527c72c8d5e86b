import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { whyNot } from "./koffi.js";

const reason = whyNot("the C library");
if (reason !== undefined) console.warn(reason);

test.skipIf(reason !== undefined)("koffi is found where the last look was at a socket", () => {
  const directory = mkdtempSync(join(tmpdir(), "libc-"));
  try {
    const program = fileURLToPath(new URL("./koffi-after-socket.mjs", import.meta.url));
    const args = [program, join(directory, "socket")];
    const told = execFileSync(process.execPath, args, { encoding: "utf8", stdio: "pipe" });
    expect(Number(told)).toBeGreaterThan(0);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
