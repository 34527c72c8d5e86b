/** Words of the emulator's local APIC, as its own source asserts them. */
const ApicWord = {
  /** Requested vectors, a bit each. */
  requests: 16,
  /** Vectors in service. */
  inService: 24,
} as const;

/**
 * The local APIC of the emulated processor, as far as a hypervisor needs it: its registers lie in the
 * emulator's heap, where the processor looks at them before its next instruction that may be interrupted.
 */
export class LocalApic {
  readonly #words: Int32Array;
  readonly #requests: number;
  readonly #inService: number;

  /** @param heap - the emulator's memory. @param address - byte address of the registers in it. */
  constructor(heap: ArrayBufferLike, address: number) {
    this.#words = new Int32Array(heap);
    this.#requests = (address >>> 2) + ApicWord.requests;
    this.#inService = (address >>> 2) + ApicWord.inService;
  }

  /** Requests an edge-triggered interrupt. A vector that is requested already stays so. */
  request(vector: number): void {
    this.#words[this.#requests + (vector >>> 5)]! |= 1 << (vector & 31);
  }

  /** Ends the service of a vector as an EOI of the guest for this very vector would. */
  endService(vector: number): void {
    this.#words[this.#inService + (vector >>> 5)]! &= ~(1 << (vector & 31));
  }

  isRequested(vector: number): boolean {
    return ((this.#words[this.#requests + (vector >>> 5)]! >>> (vector & 31)) & 1) !== 0;
  }

  isInService(vector: number): boolean {
    return ((this.#words[this.#inService + (vector >>> 5)]! >>> (vector & 31)) & 1) !== 0;
  }
}
