import { aggregationOf } from "./aggregation.js";
import { get32, put32 } from "./protocol/index.js";
import type { QueueTuning, TransmitSide } from "./queue-description.js";

/**
 * The section of the send buffer that is being filled: messages back to back, each but the last padded so that the
 * next begins aligned. One completion frees them all.
 */
export class SendSection {
  readonly sectionBytes: number;
  readonly #bytes: Uint8Array;
  readonly #side: TransmitSide;
  readonly #address: number;
  readonly #alignment: number;
  #copyBytesMax = 0;
  #messagesMax = 0;
  #bytesMax = 0;
  #descriptor = -1;
  /** GPA of the section. */
  #at = 0;
  #used = 0;
  #messages = 0;
  /** Offset of the last message. */
  #last = 0;

  /** @param side - One with sections. */
  constructor(bytes: Uint8Array, side: TransmitSide, tuning: QueueTuning) {
    const { address, sectionBytes } = side.sections!;
    this.#bytes = bytes;
    this.#side = side;
    this.#address = address;
    this.#alignment = side.alignmentBytes;
    this.sectionBytes = sectionBytes;
    this.tune(tuning);
  }

  /** Largest message that is to be copied. */
  get copyBytesMax(): number {
    return this.#copyBytesMax;
  }

  /** Other limits from now on; what lies in an open section stays there. */
  tune(tuning: QueueTuning): void {
    const { copyBytesMax } = tuning;
    this.#copyBytesMax = Math.min(copyBytesMax || this.sectionBytes, this.sectionBytes);
    const { bytesMax, messagesMax } = aggregationOf(tuning, this.#side, this.sectionBytes);
    this.#bytesMax = bytesMax;
    this.#messagesMax = messagesMax;
  }

  get isOpen(): boolean {
    return this.#descriptor >= 0;
  }

  /** True if it is not open, or has no message. */
  get isEmpty(): boolean {
    return this.#messages === 0;
  }

  /** Of the send that the section is for. */
  get descriptor(): number {
    return this.#descriptor;
  }

  /** Goes on to another section, by its index. */
  open(descriptor: number, index: number): void {
    this.#descriptor = descriptor;
    this.#at = this.#address + index * this.sectionBytes;
    this.#used = 0;
    this.#messages = 0;
  }

  /** GPA for a message of that size, which `add` then takes; -1 if there is no room for it in this section. */
  roomFor(messageBytes: number): number {
    if (this.#messages === 0) return this.#at;
    const at = this.#aligned();
    if (this.#messages >= this.#messagesMax || at + messageBytes > this.#bytesMax) return -1;
    return this.#at + at;
  }

  /** A message lies where `roomFor` said. */
  add(messageBytes: number): void {
    const at = this.#messages === 0 ? 0 : this.#aligned();
    if (at > this.#used) {
      // The padding belongs to the message before.
      this.#bytes.fill(0, this.#at + this.#used, this.#at + at);
      const length = this.#at + this.#last + 4;
      put32(this.#bytes, length, get32(this.#bytes, length) + at - this.#used);
    }
    this.#last = at;
    this.#used = at + messageBytes;
    this.#messages++;
  }

  /** Nothing is added any more. @returns Bytes that are used. */
  close(): number {
    this.#descriptor = -1;
    this.#messages = 0;
    return this.#used;
  }

  #aligned(): number {
    return (this.#used + this.#alignment - 1) & -this.#alignment;
  }
}
