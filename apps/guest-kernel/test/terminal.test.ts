import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkImageFile, createImageFile } from "@hyperv-is/vhd/node";
import { Key, TerminalSession, noTerminal } from "./terminal-session.js";

const directory = mkdtempSync(join(tmpdir(), "guest-terminal-"));
const disk = join(directory, "disk.vhdx");
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeAll(async () => {
  (await createImageFile(disk, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 })).close();
});

const PROMPT = "root@guest:~ # ";

if (noTerminal !== undefined) console.log(`the console on a terminal is not tested: ${noTerminal}`);

describe.skipIf(noTerminal !== undefined)("the console on a terminal", () => {
  /** Boots, and waits for the prompt. */
  const boot = async (...args: readonly string[]): Promise<TerminalSession> => {
    const session = new TerminalSession(directory, "boot", "--disk", disk, ...args);
    await session.waitFor(PROMPT);
    return session;
  };

  test.each(["shutdown -p now", "poweroff"])("%s ends the program with status 0", async (line) => {
    const session = await boot();
    session.type(`${line}${Key.enter}`);
    expect(await session.exit()).toBe(0);
    expect(session.transcript).toContain("All buffers synced.\r\n");
    expect(await checkImageFile(disk)).toEqual([]);
  });

  test("a command that waits for a disk for ever does not keep the terminal", async () => {
    const plan = join(directory, "lost.json");
    writeFileSync(plan, '{ "faults": [{ "kind": "lost-completion", "operation": "write" }] }');
    const session = await boot("--faults", plan);
    session.type(`dd if=/dev/zero of=/dev/da0 count=1 status=progress${Key.enter}`);
    await session.waitFor("0 bytes transferred");
    session.type(Key.ctrlC);
    await session.waitFor("^C\r\n");
    session.type(Key.ctrlC);
    await session.waitFor("The command has not ended. Ctrl-C once more shuts the guest down.\r\n");
    session.type(Key.ctrlC);
    await session.waitFor("A command waits for its disk.");
    session.type(Key.ctrlC);
    expect(await session.exit()).toBe(130);
    const findings = await checkImageFile(disk);
    expect(findings.filter(({ severity }) => severity === "error")).toEqual([]);
  });
});
