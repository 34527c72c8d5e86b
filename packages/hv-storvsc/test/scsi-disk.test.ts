import { describe, expect, test } from "vitest";
import { RamDisk } from "./ram-target.js";
import { Rig } from "./rig.js";

describe("attach", () => {
  test("a disk is found, written, read, and let go of", async () => {
    const rig = new Rig();
    rig.target.disks.set("0:0", new RamDisk(1000, "S1"));
    const controller = await rig.attach();
    const disk = controller.disks[0]!;
    const data = new Uint8Array(1024).fill(7);
    await rig.settle(disk.write(3, data));
    const back = new Uint8Array(1024);
    await rig.settle(disk.read(3, back));
    expect(back).toEqual(data);
    await rig.settle(controller.detach());
    expect(rig.calls.slice(-2)).toEqual(["unbind closed", "close"]);
  });
});
