import { PcError } from "../pc-error.js";

/** Byte offsets in the setup header of a kernel image, protocol 2.06 and newer (Linux, `arch/x86/boot.rst`). */
const Setup = {
  sectors: 0x1f1,
  bootFlag: 0x1fe,
  magic: 0x202,
  version: 0x206,
  loaderType: 0x210,
  loadFlags: 0x211,
  initrdAddress: 0x218,
  initrdBytes: 0x21c,
  heapEnd: 0x224,
  commandLineAddress: 0x228,
  initrdAddressMax: 0x22c,
  extendedLoadFlags: 0x236,
  commandLineMax: 0x238,
  preferredAddress: 0x258,
  initBytes: 0x260,
  END: 0x264,
} as const;

const BOOT_FLAG = 0xaa55;
/** "HdrS". */
const MAGIC = 0x5372_6448;
const OLDEST_VERSION = 0x020a;
const LoadFlag = { loadedHigh: 1, canUseHeap: 0x80 } as const;
const EXTENDED_64_BIT = 1;
const LOADER_UNKNOWN = 0xff;
const SECTOR_BYTES = 512;

/** Where the parts go. The real-mode part, its heap and the command line stay below the BIOS's data. */
const SETUP_SEGMENT = 0x8000;
const SETUP_ADDRESS = SETUP_SEGMENT << 4;
const HEAP_END = 0xe000;
const COMMAND_LINE_ADDRESS = SETUP_ADDRESS + HEAP_END;
const KERNEL_ADDRESS = 0x10_0000;
/** At the end of memory the BIOS keeps its tables. */
const FIRMWARE_BYTES = 2 * 2 ** 20;
const PAGE_BYTES = 4096;

/** What a guest is booted with. */
export interface LinuxBoot {
  /** A kernel image (bzImage) for 32-bit processors. */
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  readonly commandLine: string;
}

/** A part of a system to boot, and its place in guest memory. */
export interface PlacedPart {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/**
 * Lays out a Linux kernel, its command line and its initial file system in guest memory, as a boot loader
 * does. The header in the real-mode part tells the kernel.
 *
 * Throws `ERR_KERNEL_FORMAT`, `ERR_KERNEL_64_BIT`, `ERR_COMMAND_LINE` or `ERR_MEMORY`.
 *
 * @param memoryBytes - size of guest memory.
 */
export function placeLinux(
  { kernel, initrd, commandLine }: LinuxBoot,
  memoryBytes: number,
): PlacedPart[] {
  const header = headerOf(kernel);
  const setupBytes = ((header.getUint8(Setup.sectors) || 4) + 1) * SECTOR_BYTES;
  const setup = kernel.slice(0, setupBytes);
  const code = kernel.subarray(setupBytes);
  const text = new TextEncoder().encode(`${commandLine}\0`);
  if (text.byteLength > header.getUint32(Setup.commandLineMax, true) + 1)
    throw new PcError(
      "ERR_COMMAND_LINE",
      `the kernel's command line has ${text.byteLength - 1} characters; this kernel takes ${header.getUint32(Setup.commandLineMax, true)}`,
    );
  const kernelEnd = Math.max(
    KERNEL_ADDRESS + code.byteLength,
    header.getUint32(Setup.preferredAddress, true) + header.getUint32(Setup.initBytes, true),
  );
  const top = Math.min(
    memoryBytes - FIRMWARE_BYTES,
    header.getUint32(Setup.initrdAddressMax, true) + 1,
  );
  const initrdBytes = initrd?.byteLength ?? 0;
  const initrdAddress = Math.floor((top - initrdBytes) / PAGE_BYTES) * PAGE_BYTES;
  if (initrdAddress < kernelEnd)
    throw new PcError(
      "ERR_MEMORY",
      `the kernel needs ${megabytes(kernelEnd)} MiB and the initrd ${megabytes(initrdBytes)} MiB: more memory, please`,
    );
  const view = new DataView(setup.buffer);
  view.setUint8(Setup.loaderType, LOADER_UNKNOWN);
  view.setUint8(Setup.loadFlags, view.getUint8(Setup.loadFlags) | LoadFlag.canUseHeap);
  view.setUint16(Setup.heapEnd, HEAP_END - 0x200, true);
  view.setUint32(Setup.commandLineAddress, COMMAND_LINE_ADDRESS, true);
  view.setUint32(Setup.initrdAddress, initrdBytes > 0 ? initrdAddress : 0, true);
  view.setUint32(Setup.initrdBytes, initrdBytes, true);
  return [
    { address: SETUP_ADDRESS, bytes: setup },
    { address: COMMAND_LINE_ADDRESS, bytes: text },
    { address: KERNEL_ADDRESS, bytes: code },
    ...(initrd !== undefined ? [{ address: initrdAddress, bytes: initrd }] : []),
  ];
}

function headerOf(kernel: Uint8Array): DataView {
  const view = new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  if (
    kernel.byteLength < Setup.END ||
    view.getUint16(Setup.bootFlag, true) !== BOOT_FLAG ||
    view.getUint32(Setup.magic, true) !== MAGIC
  )
    throw new PcError(
      "ERR_KERNEL_FORMAT",
      "the kernel is not a Linux kernel image (bzImage); other systems boot from --cdrom or --boot-disk",
    );
  const version = view.getUint16(Setup.version, true);
  const isHigh = (view.getUint8(Setup.loadFlags) & LoadFlag.loadedHigh) !== 0;
  if (version < OLDEST_VERSION || !isHigh)
    throw new PcError(
      "ERR_KERNEL_FORMAT",
      `the kernel image is of boot protocol ${version >>> 8}.${version & 0xff}; 2.10 is the oldest that is known here`,
    );
  if ((view.getUint16(Setup.extendedLoadFlags, true) & EXTENDED_64_BIT) !== 0)
    throw new PcError(
      "ERR_KERNEL_64_BIT",
      "the kernel is a 64-bit one; the emulated processor has 32 bits (Debian 12's package linux-image-686 is one that fits)",
    );
  return view;
}

function megabytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}

/** A write to this port asks the board to put the system to boot into memory. */
export const LINUX_LOAD_PORT = 0x9f;

/** Name by which firmware knows the boot ROM, and the order that makes it the first to be booted. */
const ROM_FILE = "genroms/hyperv-pc-linux.bin";
const BOOT_ORDER = `/rom@${ROM_FILE}\n\0`;

/**
 * What firmware needs to boot a system that the board puts into memory: a boot ROM (an option ROM with a
 * boot entry vector, BIOS Boot Specification), and the order to boot it first.
 */
export function linuxBootFiles(): { readonly name: string; readonly bytes: Uint8Array }[] {
  return [
    { name: ROM_FILE, bytes: bootRom() },
    { name: "bootorder", bytes: new TextEncoder().encode(BOOT_ORDER) },
  ];
}

const ROM_BYTES = 512;
const PNP_HEADER = 0x20;
const PNP_BYTES = 0x20;
const ENTRY = PNP_HEADER + PNP_BYTES;

function bootRom(): Uint8Array {
  const rom = new Uint8Array(ROM_BYTES);
  const view = new DataView(rom.buffer);
  view.setUint16(0, BOOT_FLAG, true);
  rom[2] = ROM_BYTES / SECTOR_BYTES;
  // Nothing to initialise: retf.
  rom[3] = 0xcb;
  view.setUint16(0x1a, PNP_HEADER, true);
  rom.set(new TextEncoder().encode("$PnP"), PNP_HEADER);
  rom[PNP_HEADER + 4] = 1;
  rom[PNP_HEADER + 5] = PNP_BYTES / 16;
  view.setUint16(PNP_HEADER + 0x1a, ENTRY, true);
  balance(rom, PNP_HEADER, PNP_BYTES, PNP_HEADER + 9);
  const half = (value: number): number[] => [value & 0xff, value >>> 8];
  rom.set(
    [
      ...[0xe6, LINUX_LOAD_PORT], // out LINUX_LOAD_PORT, al
      0xfa, // cli
      0xfc, // cld
      ...[0xb8, ...half(SETUP_SEGMENT)], // mov ax, SETUP_SEGMENT
      ...[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0], // mov ds, es, fs, gs, ss, ax
      ...[0xbc, ...half(HEAP_END)], // mov sp, HEAP_END
      ...[0xea, 0x00, 0x00, ...half(SETUP_SEGMENT + 0x20)], // jmp SETUP_SEGMENT + 0x20:0
    ],
    ENTRY,
  );
  balance(rom, 0, ROM_BYTES, ROM_BYTES - 1);
  return rom;
}

/** Sets the byte at `checksum` such that the bytes of the range add up to 0. */
function balance(rom: Uint8Array, start: number, length: number, checksum: number): void {
  rom[checksum] = 0;
  const sum = rom.subarray(start, start + length).reduce((total, byte) => total + byte, 0);
  rom[checksum] = -sum & 0xff;
}
