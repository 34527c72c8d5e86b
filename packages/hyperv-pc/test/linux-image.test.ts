import { describe, expect, test } from "vitest";
import { linuxBootFiles, placeLinux, type LinuxBoot } from "../src/firmware/linux-image.js";
import { PcError } from "../src/pc-error.js";

const MEMORY_BYTES = 64 * 2 ** 20;
const SETUP_SECTORS = 3;
const CODE = Uint8Array.from({ length: 10_000 }, (_, at) => (at * 7) & 0xff);

/** A kernel image of our own: a setup header with the fields that a loader reads, and code. */
function kernel(change: (view: DataView) => void = () => undefined): Uint8Array {
  const bytes = new Uint8Array((SETUP_SECTORS + 1) * 512 + CODE.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint8(0x1f1, SETUP_SECTORS);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint32(0x202, 0x5372_6448, true);
  view.setUint16(0x206, 0x020f, true);
  view.setUint8(0x211, 1);
  view.setUint32(0x22c, 0x7fff_ffff, true);
  view.setUint32(0x238, 2047, true);
  view.setUint32(0x258, 16 * 2 ** 20, true);
  view.setUint32(0x260, 8 * 2 ** 20, true);
  bytes.set(CODE, (SETUP_SECTORS + 1) * 512);
  change(view);
  return bytes;
}

function refusal(boot: Partial<LinuxBoot>, memoryBytes = MEMORY_BYTES): string {
  try {
    placeLinux({ kernel: kernel(), commandLine: "", ...boot }, memoryBytes);
    return "none";
  } catch (error) {
    if (!(error instanceof PcError)) throw error;
    return error.code;
  }
}

describe("a Linux kernel in memory", () => {
  test("has its parts where its header says", () => {
    const initrd = new Uint8Array(5000).fill(9);
    const parts = placeLinux({ kernel: kernel(), initrd, commandLine: "quiet" }, MEMORY_BYTES);
    const at = (address: number): Uint8Array =>
      parts.find((part) => part.address === address)!.bytes;
    const setup = at(0x8_0000);
    const view = new DataView(setup.buffer, setup.byteOffset);
    expect(setup.byteLength).toBe(4 * 512);
    expect([view.getUint8(0x210), view.getUint8(0x211)]).toEqual([0xff, 0x81]);
    const commandLine = at(view.getUint32(0x228, true));
    expect(new TextDecoder().decode(commandLine)).toBe("quiet\0");
    expect(at(0x10_0000)).toEqual(CODE);
    const initrdAddress = view.getUint32(0x218, true);
    expect(at(initrdAddress)).toEqual(initrd);
    expect(view.getUint32(0x21c, true)).toBe(5000);
    expect(initrdAddress % 4096).toBe(0);
    expect(initrdAddress).toBeGreaterThanOrEqual(24 * 2 ** 20);
    expect(initrdAddress + 5000).toBeLessThanOrEqual(MEMORY_BYTES - 2 * 2 ** 20);
    // The heap ends, with its stack, where the command line begins.
    expect(view.getUint16(0x224, true) + 0x200 + 0x8_0000).toBe(view.getUint32(0x228, true));
  });

  test("is not changed, so that it can be loaded again", () => {
    const image = kernel();
    const before = image.slice();
    placeLinux({ kernel: image, commandLine: "quiet" }, MEMORY_BYTES);
    expect(image).toEqual(before);
  });

  test("keeps its initrd below the limit that it names", () => {
    const limited = kernel((view) => view.setUint32(0x22c, 40 * 2 ** 20 - 1, true));
    const initrd = new Uint8Array(4096);
    const parts = placeLinux({ kernel: limited, initrd, commandLine: "" }, MEMORY_BYTES);
    expect(parts.at(-1)).toMatchObject({ address: 40 * 2 ** 20 - 4096 });
  });

  test.each<[string, string, Partial<LinuxBoot>]>([
    ["ERR_KERNEL_FORMAT", "a short file", { kernel: new Uint8Array(100) }],
    ["ERR_KERNEL_FORMAT", "no boot flag", { kernel: kernel((view) => view.setUint16(0x1fe, 0)) }],
    ["ERR_KERNEL_FORMAT", "no magic", { kernel: kernel((view) => view.setUint32(0x202, 0)) }],
    [
      "ERR_KERNEL_FORMAT",
      "an old protocol",
      { kernel: kernel((view) => view.setUint16(0x206, 0x0209, true)) },
    ],
    ["ERR_KERNEL_FORMAT", "a low kernel", { kernel: kernel((view) => view.setUint8(0x211, 0)) }],
    ["ERR_KERNEL_64_BIT", "64 bits", { kernel: kernel((view) => view.setUint8(0x236, 1)) }],
    ["ERR_COMMAND_LINE", "a long command line", { commandLine: "x".repeat(2048) }],
    ["none", "the longest command line", { commandLine: "x".repeat(2047) }],
    ["ERR_MEMORY", "a large initrd", { initrd: new Uint8Array(40 * 2 ** 20) }],
  ])("%s: %s", (code, _, boot) => {
    expect(refusal(boot)).toBe(code);
  });
});

describe("the boot ROM", () => {
  const files = linuxBootFiles();
  const rom = files.find(({ name }) => name.startsWith("genroms/"))!;

  test("is one that a BIOS accepts", () => {
    const { bytes } = rom;
    const view = new DataView(bytes.buffer);
    const sum = (start: number, length: number): number =>
      bytes.subarray(start, start + length).reduce((total, byte) => total + byte, 0) & 0xff;
    expect(view.getUint16(0, true)).toBe(0xaa55);
    expect(bytes[2]! * 512).toBe(bytes.byteLength);
    expect(sum(0, bytes.byteLength)).toBe(0);
    const header = view.getUint16(0x1a, true);
    expect(new TextDecoder().decode(bytes.subarray(header, header + 4))).toBe("$PnP");
    expect(sum(header, bytes[header + 5]! * 16)).toBe(0);
    // The boot entry asks for the system before anything else: out 0x9f, al.
    const entry = view.getUint16(header + 0x1a, true);
    expect([bytes[entry], bytes[entry + 1]]).toEqual([0xe6, 0x9f]);
  });

  test("is the first to be booted", () => {
    const order = files.find(({ name }) => name === "bootorder")!;
    expect(new TextDecoder().decode(order.bytes)).toBe(`/rom@${rom.name}\n\0`);
  });
});
