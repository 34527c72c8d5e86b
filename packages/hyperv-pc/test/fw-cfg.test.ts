import { describe, expect, test } from "vitest";
import { FwCfg } from "../src/firmware/fw-cfg.js";

function read(fwCfg: FwCfg, index: number, lengthBytes: number): number[] {
  fwCfg.select(index);
  return Array.from({ length: lengthBytes }, () => fwCfg.read());
}

describe("the firmware configuration interface", () => {
  const files = [
    { name: "acpi/one.aml", bytes: new Uint8Array([1, 2, 3]) },
    { name: "two", bytes: new Uint8Array(300).fill(7) },
  ];
  const fwCfg = new FwCfg(files);

  test("says that it is there, and has no DMA", () => {
    expect(String.fromCharCode(...read(fwCfg, 0, 4))).toBe("QEMU");
    expect(read(fwCfg, 1, 4)).toEqual([1, 0, 0, 0]);
  });

  test("lists its files in big-endian entries of 64 bytes", () => {
    const directory = read(fwCfg, 0x19, 4 + 2 * 64);
    const view = new DataView(Uint8Array.from(directory).buffer);
    expect(view.getUint32(0)).toBe(2);
    const entries = [0, 1].map((number) => {
      const at = 4 + number * 64;
      const name = directory.slice(at + 8, at + 64);
      return {
        size: view.getUint32(at),
        index: view.getUint16(at + 4),
        reserved: view.getUint16(at + 6),
        name: String.fromCharCode(...name).replace(/\0+$/, ""),
      };
    });
    expect(entries).toEqual([
      { size: 3, index: 0x20, reserved: 0, name: "acpi/one.aml" },
      { size: 300, index: 0x21, reserved: 0, name: "two" },
    ]);
  });

  test("reads a file from its start each time it is selected", () => {
    expect(read(fwCfg, 0x20, 2)).toEqual([1, 2]);
    expect(fwCfg.read()).toBe(3);
    expect(read(fwCfg, 0x20, 3)).toEqual([1, 2, 3]);
    expect(read(fwCfg, 0x21, 300)).toEqual(Array.from(files[1]!.bytes));
  });

  test("reads zeros behind an end, and for what is not there", () => {
    expect(read(fwCfg, 0x20, 5)).toEqual([1, 2, 3, 0, 0]);
    for (const index of [0x22, 0x8000, 0xffff]) expect(read(fwCfg, index, 4)).toEqual([0, 0, 0, 0]);
  });

  test("refuses a name that has no room", () => {
    const named = (length: number) => [{ name: "n".repeat(length), bytes: new Uint8Array(1) }];
    expect(() => new FwCfg(named(55))).not.toThrow();
    expect(() => new FwCfg(named(56))).toThrow(RangeError);
  });
});
