import { once } from "node:events";
import { connect, type Socket } from "node:net";

/**
 * A daemon as the reference describes stock ones, written without anything of this package: FreeBSD's (messages of
 * 7430 bytes, registers with operation 4, nothing comes back) or Linux's (7432, operation 100, the kernel answers).
 * Keeps one pool in memory, and finds keys as they do: by the first match.
 */
export class ReferenceClient {
  readonly #socket: Socket;
  readonly #messageBytes: number;
  readonly pool: [key: string, value: string][] = [];
  /** Text that Linux's kernel sent with the registration. */
  version = "";
  answered = 0;
  #isRegistered: boolean;
  #pending = Buffer.alloc(0);

  private constructor(socket: Socket, linux: boolean) {
    this.#socket = socket;
    this.#messageBytes = linux ? 7432 : 7430;
    this.#isRegistered = !linux;
    const register = Buffer.alloc(this.#messageBytes);
    register[0] = linux ? 100 : 4;
    // In pieces: a stream may split messages anywhere.
    socket.write(register.subarray(0, 11));
    socket.write(register.subarray(11));
    socket.on("data", (bytes: Buffer) => {
      this.#pending = Buffer.concat([this.#pending, bytes]);
      while (this.#pending.length >= this.#messageBytes) {
        const message = Buffer.from(this.#pending.subarray(0, this.#messageBytes));
        this.#pending = this.#pending.subarray(this.#messageBytes);
        this.#take(message);
      }
    });
  }

  static async connect(path: string, linux: boolean): Promise<ReferenceClient> {
    const socket = connect(path);
    await once(socket, "connect");
    return new ReferenceClient(socket, linux);
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(message: Buffer): void {
    if (!this.#isRegistered) {
      this.#isRegistered = true;
      this.version = text(message, 4, 512);
      return;
    }
    const status = this.#serve(message);
    message.writeUInt32LE(status, 0);
    this.answered++;
    this.#socket.write(message);
  }

  #serve(message: Buffer): number {
    const past = 0x80070103;
    switch (message[0]) {
      case 0: {
        const found = this.pool.find(([key]) => key === text(message, 16, 512));
        if (found === undefined) return past;
        message.write(found[1].slice(0, message.readUInt32LE(12)), 528, "utf8");
        return 0;
      }
      case 1: {
        const key = text(message, 16, 512);
        const found = this.pool.find(([known]) => known === key);
        if (found === undefined) this.pool.push([key, text(message, 528, 2048)]);
        else found[1] = text(message, 528, 2048);
        return 0;
      }
      case 2: {
        const at = this.pool.findIndex(([key]) => key === text(message, 8, 512));
        if (at < 0) return past;
        this.pool.splice(at, 1);
        return 0;
      }
      case 3: {
        const found = this.pool[message.readUInt32LE(4)];
        if (found === undefined) return past;
        message.fill(0, 20, 2580);
        message.writeUInt32LE(message.write(found[0], 20, "utf8") + 1, 12);
        message.writeUInt32LE(message.write(found[1], 532, "utf8") + 1, 16);
        return 0;
      }
      default:
        return 0x80070032;
    }
  }
}

function text(message: Buffer, at: number, width: number): string {
  const end = message.indexOf(0, at);
  return message.toString("utf8", at, Math.min(end < 0 ? Infinity : end, at + width));
}
