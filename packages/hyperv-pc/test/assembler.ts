/** The registers of the instructions below, by their numbers in an instruction. */
const Register = { eax: 0, ecx: 1, edx: 2, ebx: 3 } as const;
type Register = keyof typeof Register;

const half = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const word = (value: number): number[] => [...half(value), ...half(value >>> 16)];

/** 32-bit operands, in real mode. */
const WIDE = 0x66;

/**
 * Instructions of a processor in real mode, with 32-bit operands: enough for programs that try out a
 * hypervisor. Addresses are those of the first 64 KiB.
 */
export const instruction = {
  move: (register: Register, value: number): number[] => [
    WIDE,
    0xb8 + Register[register],
    ...word(value),
  ],
  load: (register: Register, address: number): number[] => [
    WIDE,
    0x8b,
    0x06 | (Register[register] << 3),
    ...half(address),
  ],
  store: (address: number, register: Register): number[] => [
    WIDE,
    0x89,
    0x06 | (Register[register] << 3),
    ...half(address),
  ],
  storeValue: (address: number, value: number): number[] => [
    WIDE,
    0xc7,
    0x06,
    ...half(address),
    ...word(value),
  ],
  /** Reads a device in memory, at any address, into EAX: the emulator does not check the limits of segments. */
  readDevice: (address: number): number[] => [0x67, WIDE, 0xa1, ...word(address)],
  writeDevice: (address: number, value: number): number[] => [
    ...[0x67, WIDE, 0xc7, 0x05],
    ...word(address),
    ...word(value),
  ],
  increment: (address: number): number[] => [WIDE, 0xff, 0x06, ...half(address)],
  cpuid: [0x0f, 0xa2],
  wrmsr: [0x0f, 0x30],
  rdmsr: [0x0f, 0x32],
  out: (port: number): number[] => [0xe6, port],
  /** Calls code in the segment 0. */
  call: (address: number): number[] => [0x9a, ...half(address), 0, 0],
  /** Adds 2 to the return address of the exception's frame: behind a two-byte instruction. */
  skipFaulting: [0x55, 0x89, 0xe5, 0x83, 0x46, 0x02, 0x02, 0x5d],
  enableInterrupts: [0xfb],
  interruptReturn: [0xcf],
  /** Halts for ever; interrupts are taken. */
  idle: [0xf4, 0xeb, 0xfd],
  /** Switches the machine off, as ACPI does it, and halts until that has happened. */
  powerOff: [0xba, 0x04, 0xb0, 0xb8, 0x00, 0x20, 0xef, 0xfa, 0xf4],
  /** Writes a byte to the serial port. */
  mark: [0xba, 0xf8, 0x03, 0xb0, 0x53, 0xee],
  /** Writes a text to the serial port: for each byte mov dx, 3f8h; mov al, byte; out dx, al. */
  say: (text: string): number[] =>
    Array.from(text, (one) => [0xba, 0xf8, 0x03, 0xb0, one.charCodeAt(0), 0xee]).flat(),
  /** Waits until a byte has come in on the serial port, and sends it back. */
  echo: [
    ...[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb], // mov dx, 3fdh; in al, dx; test al, 1; jz back to in
    ...[0xba, 0xf8, 0x03, 0xec, 0xee], // mov dx, 3f8h; in al, dx; out dx, al
  ],
  /** Resets the machine, by the keyboard controller. */
  reset: [0xb0, 0xfe, 0xe6, 0x64],
  writeMsr: (msr: number, low: number, high = 0): number[] => [
    ...instruction.move("ecx", msr),
    ...instruction.move("eax", low),
    ...instruction.move("edx", high),
    ...instruction.wrmsr,
  ],
  readMsr: (msr: number): number[] => [...instruction.move("ecx", msr), ...instruction.rdmsr],
};

/** What stands in a guest's memory when its program starts. */
export interface Placed {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Pieces of code as one. */
export function code(...pieces: readonly (readonly number[])[]): Uint8Array {
  return Uint8Array.from(pieces.flat());
}

/** A vector of the interrupt table of real mode. @param offset - of the handler, in segment 0. */
export function interruptVector(vector: number, offset: number): Placed {
  return { address: vector * 4, bytes: Uint8Array.from([...half(offset), 0, 0]) };
}

/** Where programs are put. */
export const PROGRAM = 0x8000;

/** A BIOS of our own: asks for the program, and jumps to it. @param loadPort - on which to ask. */
export function bootingBios(loadPort: number): Uint8Array {
  const bios = new Uint8Array(0x1_0000);
  bios.set([...instruction.out(loadPort), 0xea, ...half(PROGRAM), 0, 0], 0xfff0);
  return bios;
}
