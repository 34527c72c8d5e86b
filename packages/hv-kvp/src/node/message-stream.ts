/** Cuts a stream into messages of one size, however it comes in pieces. */
export class MessageStream {
  readonly #message: Uint8Array;
  readonly #arrived: (message: Uint8Array) => void;
  #filledBytes = 0;

  /** @param arrived - Gets each message, as an array of its own. */
  constructor(messageBytes: number, arrived: (message: Uint8Array) => void) {
    this.#message = new Uint8Array(messageBytes);
    this.#arrived = arrived;
  }

  push(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength;) {
      const taken = Math.min(this.#message.byteLength - this.#filledBytes, bytes.byteLength - at);
      this.#message.set(bytes.subarray(at, at + taken), this.#filledBytes);
      this.#filledBytes += taken;
      at += taken;
      if (this.#filledBytes < this.#message.byteLength) return;
      this.#filledBytes = 0;
      this.#arrived(this.#message.slice());
    }
  }
}
