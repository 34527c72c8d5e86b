import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { Segment, TestDevice } from "./network-link.js";

/** Every frame on a socket in the framing of QEMU's stream netdev goes to a segment, and the other way round. */
export class SocketBridge {
  readonly segment: Segment;
  readonly #socket: Socket;
  #input = Buffer.alloc(0);

  private constructor(timers: VirtualTimers, socket: Socket) {
    this.segment = new Segment(timers, 0);
    this.#socket = socket;
    // A station that takes everything and sends what comes from the socket.
    const station = new TestDevice("bridge", [0x02, 0, 0, 0, 0, 0xbb], this.segment);
    station.isPromiscuous = true;
    void station.setUp(true);
    station.connect({ input: (frame) => this.#send(frame), linkChanged: () => undefined });
    socket.on("data", (chunk: Buffer) => {
      this.#input = Buffer.concat([this.#input, chunk]);
      while (this.#input.length >= 4 && this.#input.length >= 4 + this.#input.readUInt32BE(0)) {
        const end = 4 + this.#input.readUInt32BE(0);
        this.segment.carry(this.#input.subarray(4, end), station);
        this.#input = this.#input.subarray(end);
        timers.advance(0);
      }
    });
  }

  /** Connects to a switch that listens. The clock of the segment stands still: all of it happens as frames come. */
  static async connect(path: string, timers: VirtualTimers): Promise<SocketBridge> {
    const socket = connect(path);
    await once(socket, "connect");
    return new SocketBridge(timers, socket);
  }

  close(): void {
    this.#socket.destroy();
  }

  #send(frame: Uint8Array): void {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(frame.byteLength);
    this.#socket.write(Buffer.concat([header, frame]));
  }
}
