import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { placeDisks } from "@hyperv-is/hyperv-host";
import { ControlClient } from "@hyperv-is/hyperv-host/node/control";
import { bootPc, type PcMachine } from "../src/node/index.js";

let directory = "";
let firmware = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "pc-control-"));
  firmware = join(directory, "firmware");
  mkdirSync(firmware);
  const bios = new Uint8Array(0x1_0000);
  bios.set([0xeb, 0xfe], 0xfff0); // jmp to itself: a guest that does nothing, for ever
  writeFileSync(join(firmware, "bios.bin"), bios);
  writeFileSync(join(firmware, "vgabios-stdvga.bin"), new Uint8Array(512));
});
afterAll(() => rmSync(directory, { recursive: true }));

const start = (control: string): Promise<PcMachine> =>
  bootPc({
    bios: firmware,
    memoryBytes: 64 * 2 ** 20,
    controllers: placeDisks([
      { source: { kind: "ram", sizeBytes: 2 ** 20, identity: new Uint8Array(16).fill(3) } },
    ]),
    control,
  });

test("a PC with a control socket shows what it does, until it ends", async () => {
  const path = join(directory, "pc.sock");
  const machine = await start(path);
  using client = await ControlClient.connect(path);
  expect(client.program).toMatch(/^hyperv-pc \d+\.\d+\.\d+/);
  const summary = await client.call("get-vm", {});
  expect(summary).toMatchObject({
    name: "pc",
    processorCount: 1,
    memoryBytes: 64 * 2 ** 20,
    busState: "disconnected",
    busVersion: null,
  });
  const stats = await client.call("stats", {});
  expect(stats.uptimeMs).toBeGreaterThan(summary.uptimeMs);
  expect(stats.channels).toHaveLength(machine.host.stats().channels.length);
  expect(stats.controllers[0]!.disks).toMatchObject([{ lun: 0, reads: 0 }]);
  await machine.stop();
  await client.closed;
  expect(readdirSync(directory)).toEqual(["firmware"]);
});

test("a PC whose control socket cannot be made does not start", async () => {
  await expect(start(firmware)).rejects.toMatchObject({ code: "ERR_CONTROL_IN_USE" });
  expect(readdirSync(directory)).toEqual(["firmware"]);
});
