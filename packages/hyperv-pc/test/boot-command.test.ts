import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createImageFile } from "@hyperv-is/vhd/node";
import { instruction } from "./assembler.js";
import { BootProgram, describeWithFirmware } from "./boot-program.js";
import { littleKernel } from "./little-systems.js";

const { echo, enableInterrupts, out, powerOff, say } = instruction;
/** Waits for ever, as a guest does that can be interrupted. */
const idle = [...enableInterrupts, ...instruction.idle];

const directory = mkdtempSync(join(tmpdir(), "hyperv-pc-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** A file of the test's folder. */
function file(name: string, bytes: Uint8Array | string = ""): string {
  const path = join(directory, name);
  if (bytes !== "") writeFileSync(path, bytes);
  return path;
}

describeWithFirmware("hyperv-pc boot", () => {
  test("shows the guest's console, and tells at the end what there was", async () => {
    const kernel = file("hello", littleKernel(say("hello\r\n"), echo, powerOff));
    const disk = file("data.vhdx");
    (await createImageFile(disk, { format: "vhdx-dynamic", sizeBytes: 2 ** 24 })).close();
    const run = new BootProgram(
      "--kernel",
      kernel,
      "--disk",
      `${disk},controller=1`,
      ...["--nic", "switch=lan,mac=00:15:5d:00:00:01", "--switch", "lan"],
    );
    await run.shows("hello\r\n");
    run.type("k");
    expect([await run.status(), run.stdout]).toEqual([0, "hello\r\nk"]);
    expect(run.stderr).toContain("The machine has ended: powered-off.");
    expect(run.stderr).toContain("VMBus not connected");
    expect(run.stderr).toContain("Disk at controller 1, LUN 0: 0 reads");
    expect(run.stderr).toContain("Network adapter 00:15:5d:00:00:01: 0 frames sent");
  });

  test("reports rules that were broken, for people and for programs", async () => {
    // A hypercall of a guest that has not said who it is.
    const kernel = file("rude", littleKernel(say("x"), out(0x9e), powerOff));
    const args = ["--kernel", kernel, "--violations", "fail"];
    const [people, programs] = [new BootProgram(...args), new BootProgram(...args, "--json")];
    expect(await people.status()).toBe(3);
    expect(people.stderr).toContain("The guest broke 1 rule of the protocol:\n  hypercall-without");
    expect([await programs.status(), programs.stderr]).toEqual([3, ""]);
    expect(JSON.parse(programs.stdout)).toMatchObject({
      end: "powered-off",
      console: "x",
      violations: [{ rule: "hypercall-without-guest-os-id" }],
      stats: { violations: { "hypercall-without-guest-os-id": 1 } },
    });
  });

  test("fails with an object for programs, and with status 2 for what cannot be", async () => {
    const kernel = file("idle", littleKernel(idle));
    const disk = new BootProgram("--kernel", kernel, "--json", "--disk", file("none.vhdx"));
    expect(await disk.status()).toBe(1);
    expect(JSON.parse(disk.stdout)).toMatchObject({
      error: { code: "ERR_IMAGE_FILE", message: expect.stringContaining("none.vhdx") as string },
    });
    const uplink = `lan,uplink=socket:${file("none")}`;
    const socket = new BootProgram("--kernel", kernel, "--json", "--switch", uplink);
    expect(await socket.status()).toBe(1);
    expect(JSON.parse(socket.stdout)).toMatchObject({ error: { code: "ENOENT" } });
    const memory = new BootProgram("--kernel", kernel, "--memory", "2G");
    expect([await memory.status(), memory.stdout]).toEqual([2, ""]);
    expect(memory.stderr).toBe("hyperv-pc: memory must be whole MiB, from 64M to 1024M\n");
  });

  test.each([
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)("ends the machine in good order on %s", async (signal, status) => {
    const run = new BootProgram("--kernel", file("idle", littleKernel(say("up"), idle)));
    await run.shows("up");
    run.child.kill(signal);
    expect(await run.status()).toBe(status);
    expect(run.stderr).toContain("The machine has ended: stopped.");
  });

  test("ends the machine in good order when nobody reads any more", async () => {
    // Says something for ever: jmp back to the start.
    const line = say("line\n");
    const endless = [...line, 0xeb, 0x100 - (line.length + 2)];
    const run = new BootProgram("--kernel", file("endless", littleKernel(endless)));
    await run.shows("line");
    run.child.stdout.destroy();
    expect(await run.status()).toBe(141);
    expect(run.stderr).toContain("The machine has ended: stopped.");
    expect(run.stderr).not.toContain("EPIPE");
  });

  describe("with a snapshot", () => {
    const kernel = (): string =>
      file("saved", littleKernel(echo, say("hyperv-pc: snapshot\n"), echo, powerOff));

    test("the guest is typed at before it is taken, and goes on from it", async () => {
      const args = ["--kernel", kernel(), "--snapshot", file("snapshot")];
      for (const typed of ["a", ""]) {
        const run = new BootProgram(...args);
        if (typed !== "") run.type(typed);
        await run.shows("ahyperv-pc: snapshot\n");
        run.type("b");
        expect([await run.status(), run.stdout]).toEqual([0, "ahyperv-pc: snapshot\nb"]);
      }
    });

    test("a guest that ends before is told of, and by a signal too", async () => {
      const snapshot = file("never");
      const early = new BootProgram(
        ...["--kernel", file("early", littleKernel(say("bye"), powerOff)), "--snapshot", snapshot],
      );
      expect(await early.status()).toBe(1);
      expect(early.stderr).toContain("The machine has ended: powered-off.");
      expect(early.stderr).toContain(
        "no snapshot was made: the machine ended (powered-off) before",
      );
      const killed = new BootProgram(
        ...["--kernel", file("idle", littleKernel(say("up"), idle)), "--snapshot", snapshot],
      );
      await killed.shows("up");
      killed.child.kill("SIGTERM");
      expect(await killed.status()).toBe(143);
      expect(killed.stderr).toContain("no snapshot was made");
      expect(existsSync(snapshot)).toBe(false);
    });

    test("a place where none can be made is known before the guest boots", async () => {
      const run = new BootProgram(
        "--kernel",
        kernel(),
        "--snapshot",
        file("nowhere/snapshot"),
        "--json",
      );
      expect(await run.status()).toBe(1);
      expect(JSON.parse(run.stdout)).toMatchObject({ error: { code: "ERR_SNAPSHOT" } });
    });
  });
});
