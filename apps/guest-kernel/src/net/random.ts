/** Where random numbers come from; a test hands in a seeded one. */
export interface Random {
  /** Overwrites all of `target` with random bytes. */
  fill(target: Uint8Array): void;
}

const scratch = new Uint32Array(1);
const scratchBytes = new Uint8Array(scratch.buffer);

/** An unsigned 32-bit number. */
export function randomU32(random: Random): number {
  random.fill(scratchBytes);
  return scratch[0]!;
}

/** A number from 0 up to, but without, 1. */
export function randomFraction(random: Random): number {
  return randomU32(random) / 0x1_0000_0000;
}
