import type { Socket } from "node:net";
import type { ByteStream, StreamUser } from "./byte-stream.js";

/** A stream that Node reads and writes. */
export class NodeStream implements ByteStream {
  readonly #socket: Socket;
  #isCorked = false;

  constructor(socket: Socket, user: StreamUser) {
    this.#socket = socket;
    socket.on("data", (bytes) => user.received(bytes, bytes.byteLength));
    socket.on("end", () => user.ended());
    // What went wrong does not matter: the client is gone, and `close` follows.
    socket.on("error", () => undefined);
    socket.on("close", () => user.closed());
    socket.resume();
  }

  get isClosed(): boolean {
    return this.#socket.destroyed;
  }

  get waitingBytes(): number {
    return this.#socket.writableLength;
  }

  send(bytes: Uint8Array, done: () => void): void {
    if (this.#socket.destroyed) {
      queueMicrotask(done);
      return;
    }
    if (!this.#isCorked) {
      this.#isCorked = true;
      this.#socket.cork();
      queueMicrotask(this.#uncork);
    }
    this.#socket.write(bytes, done);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    this.#socket.end();
    // A socket that is closed while something comes may take the last replies back from the client.
    this.#socket.resume();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  readonly #uncork = (): void => {
    this.#isCorked = false;
    this.#socket.uncork();
  };
}
