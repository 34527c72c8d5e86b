import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
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
  let sessions: TerminalSession[] = [];
  afterEach(() => {
    for (const session of sessions) session.hangUp();
    sessions = [];
  });

  /** Boots, and waits for the prompt. */
  const boot = async (...args: readonly string[]): Promise<TerminalSession> => {
    const session = new TerminalSession(directory, "boot", "--disk", disk, ...args);
    sessions.push(session);
    await session.waitFor(PROMPT);
    return session;
  };

  test("the demo shows the sample disk at work, and then the console is the user's", async () => {
    const session = new TerminalSession(directory, "demo");
    sessions.push(session);
    expect(await session.waitFor(`\n${PROMPT}camcontrol devlist\r\n`)).toContain(
      join(directory, "hyperv-is", "sample.vhdx"),
    );
    await session.waitFor("<Msft Virtual Disk 1.0>");
    await session.waitFor("linux-data  (24M)");
    await session.waitFor("SHA256 (/dev/da0p1) = ");
    await session.waitFor("8388608 bytes transferred");
    await session.waitFor("67108864 bytes transferred");
    await session.waitFor("dev.storvsc.0.channel.10.send_req: ");
    await session.waitFor(PROMPT);
    session.type(`poweroff${Key.enter}`);
    expect(await session.exit()).toBe(0);
  });

  test.each(["shutdown -p now", "poweroff"])("%s ends the program with status 0", async (line) => {
    const session = await boot();
    session.type(`${line}${Key.enter}`);
    expect(await session.exit()).toBe(0);
    expect(session.transcript).toContain("All buffers synced.\r\n");
    expect(await checkImageFile(disk)).toEqual([]);
  });

  test("completes words, remembers lines, and ends with the status of the last command", async () => {
    const first = await boot();
    // One by one: what comes together is a paste, in which a tab is a tab.
    for (const [typed, completed] of [
      ["camc", "ontrol "],
      ["tu", "r "],
      ["da", "0 "],
    ] as const) {
      first.type(typed);
      await first.waitFor(typed.slice(1));
      first.type(Key.tab);
      await first.waitFor(completed);
    }
    first.type(Key.enter);
    await first.waitFor("Unit is ready\r\n");
    await first.waitFor(PROMPT);
    first.type(`exit${Key.enter}`);
    expect(await first.exit()).toBe(0);
    const second = await boot();
    second.type(`${Key.up}${Key.up}${Key.enter}`);
    await second.waitFor("Unit is ready\r\n");
    await second.waitFor(PROMPT);
    second.type(`false${Key.enter}`);
    await second.waitFor(PROMPT);
    second.type(Key.ctrlD);
    expect(await second.exit()).toBe(1);
    expect(second.transcript).toMatch(/# [^\r]*\r\nWaiting/);
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
