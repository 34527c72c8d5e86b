import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checkImageFile, createImageFile } from "@hyperv-is/vhd/node";
import { Key, TerminalSession, noTerminal } from "./terminal-session.js";

const PROMPT = "root@guest:~ # ";

/** Where somebody is at home: a disk, and what the program remembers. Each test has its own, since most of each is waiting. */
class Home implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), "guest-terminal-"));
  readonly disk = join(this.directory, "disk.vhdx");
  readonly #sessions: TerminalSession[] = [];

  /** Runs the program on a terminal. */
  session(...args: readonly string[]): TerminalSession {
    const session = new TerminalSession(this.directory, ...args);
    this.#sessions.push(session);
    return session;
  }

  /** Boots a guest with the disk, which is made when it is missing, and waits for the prompt. */
  async boot(...args: readonly string[]): Promise<TerminalSession> {
    if (!existsSync(this.disk))
      (await createImageFile(this.disk, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 })).close();
    const session = this.session("boot", "--disk", this.disk, ...args);
    await session.waitFor(PROMPT);
    return session;
  }

  [Symbol.dispose](): void {
    for (const session of this.#sessions) session.hangUp();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

if (noTerminal !== undefined) console.log(`the console on a terminal is not tested: ${noTerminal}`);

describe.skipIf(noTerminal !== undefined).concurrent("the console on a terminal", () => {
  test("the demo shows the sample disk at work, and then the console is the user's", async () => {
    using home = new Home();
    const session = home.session("demo");
    expect(await session.waitFor(`\n${PROMPT}camcontrol devlist\r\n`)).toContain(
      join(home.directory, "hyperv-is", "sample.vhdx"),
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
    using home = new Home();
    const session = await home.boot();
    session.type(`${line}${Key.enter}`);
    expect(await session.exit()).toBe(0);
    expect(session.transcript).toContain("All buffers synced.\r\n");
    expect(await checkImageFile(home.disk)).toEqual([]);
  });

  test("completes words, remembers lines, and ends with the status of the last command", async () => {
    using home = new Home();
    const first = await home.boot();
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
    const second = await home.boot();
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
    using home = new Home();
    const plan = join(home.directory, "lost.json");
    writeFileSync(plan, '{ "faults": [{ "kind": "lost-completion", "operation": "write" }] }');
    const session = await home.boot("--faults", plan);
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
    const findings = await checkImageFile(home.disk);
    expect(findings.filter(({ severity }) => severity === "error")).toEqual([]);
  });
});
