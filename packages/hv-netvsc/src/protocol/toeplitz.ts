/** The key of Microsoft's verification suite, which guests use unless they have one of their own. */
export const DEFAULT_RSS_KEY: Uint8Array = Uint8Array.of(
  ...[
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
  ],
  ...[
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
  ],
  ...[0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa],
);

/**
 * The Toeplitz hash of receive side scaling, by one key.
 *
 * The input is in network order: source address, destination address, and for TCP and UDP source port and
 * destination port. It may be 4 bytes shorter than the key.
 */
export class ToeplitzHash {
  /** For each byte of input and each of its values: what it adds to the hash. */
  readonly #table: Int32Array;

  /** @param key - At least 5 bytes; 40 in RSS parameters. */
  constructor(key: Uint8Array) {
    const positions = key.byteLength - 4;
    this.#table = new Int32Array(positions * 256);
    for (let position = 0; position < positions; position++)
      for (let bit = 0; bit < 8; bit++) {
        const window = windowAt(key, position * 8 + bit);
        const mask = 0x80 >>> bit;
        for (let value = 0; value < 256; value++)
          if ((value & mask) !== 0) this.#table[position * 256 + value]! ^= window;
      }
  }

  /**
   * The hash of `lengthBytes` bytes at `at`, as a continuation of `hash` that has taken `position` bytes.
   *
   * @returns The 32 bits as an int32.
   */
  add(hash: number, position: number, bytes: Uint8Array, at: number, lengthBytes: number): number {
    for (let index = 0; index < lengthBytes; index++)
      hash ^= this.#table[(position + index) * 256 + bytes[at + index]!]!;
    return hash;
  }
}

/** The 32 bits of the key from this bit on. */
function windowAt(key: Uint8Array, bit: number): number {
  let window = 0;
  for (let index = 0; index < 32; index++) {
    const at = bit + index;
    window = (window << 1) | ((key[at >>> 3]! >>> (7 - (at & 7))) & 1);
  }
  return window;
}
