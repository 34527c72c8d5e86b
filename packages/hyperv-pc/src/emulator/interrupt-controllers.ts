/** Words of the emulator's local APIC, as its own source asserts them. */
const LOCAL_APIC_WORDS = 46;
/** Words of its I/O APIC before the levels of the lines, which are the devices'. */
const IO_APIC_WORDS = 51;

/** Where the emulator's heap has the registers of the interrupt controllers. */
export interface InterruptControllerOffsets {
  /** Byte offset of the local APIC's registers. */
  readonly apicOffset: number;
  /** Byte offset of the I/O APIC's registers. */
  readonly ioApicOffset: number;
}

/**
 * The local APIC and the I/O APIC of the emulated PC when the machine is reset, which the emulator leaves as
 * they are: an interrupt that was in service would stay so for ever, and keep those of lower vectors out.
 */
export class InterruptControllers {
  readonly #registers: readonly { readonly words: Int32Array; readonly atPowerOn: Int32Array }[];

  /** @param heap - the emulator's memory, of a machine whose processor has not run. */
  constructor(heap: ArrayBufferLike, { apicOffset, ioApicOffset }: InterruptControllerOffsets) {
    this.#registers = [
      new Int32Array(heap, apicOffset, LOCAL_APIC_WORDS),
      new Int32Array(heap, ioApicOffset, IO_APIC_WORDS),
    ].map((words) => ({ words, atPowerOn: words.slice() }));
  }

  /** Puts them as they were at power-on. */
  reset(): void {
    for (const { words, atPowerOn } of this.#registers) words.set(atPowerOn);
  }
}
