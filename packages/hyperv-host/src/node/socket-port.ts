import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { PrivateSocket } from "@hyperv-is/platform-node";
import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import type { SocketUplink } from "../network-config.js";
import { Frame, OneRun } from "../switch/frame.js";
import { privateMemory, type FrameMemory } from "../switch/frame-memory.js";
import { FRAME_MAX_BYTES } from "../switch/held-frame.js";
import type { Port } from "../switch/port.js";
import { noOffloads, type PortEnd } from "../switch/switch-port.js";
import type { VirtualSwitch } from "../switch/virtual-switch.js";

const LENGTH_BYTES = 4;

/** The largest length that QEMU's stream netdev sends: a frame of 64 KiB and room for headers. */
const PACKET_MAX_BYTES = 68 * 1024;

/** Bytes that wait to be cut into frames: the largest, and what a socket brings at once. */
const INPUT_BYTES = 256 * 1024;

/** Bytes that are written at once, and how many such may be on their way before frames are dropped. */
const OUTPUT_BYTES = 128 * 1024;
const OUTPUTS_MAX = 8;

/** Time before the first attempt to connect again, and at most before each later one. */
const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 5_000;

/** What a port needs besides its switch. */
export interface SocketPortContext {
  readonly timers: Timers;
  /** A line for whoever runs the machine. */
  readonly log: (line: string) => void;
}

/** Bytes on their way to the socket. */
interface Output {
  readonly memory: FrameMemory;
  filled: number;
}

/**
 * A port of a switch that leads to a unix stream socket, in the framing of QEMU's stream netdev. Frames are as on a
 * wire. The link is up while somebody is at the other side; frames that are to go there meanwhile are dropped and
 * counted (`droppedLinkDown`). A port that has connected does so again when the other side went away.
 */
export class SocketPort implements PortEnd {
  readonly offloads = noOffloads;
  readonly port: Port;
  /** Frames from the socket that were too large to be frames. */
  tooLong = 0;
  /** Times that the other side was let go because it did not speak in frames. */
  unframed = 0;
  readonly #owner: VirtualSwitch;
  readonly #uplink: SocketUplink;
  readonly #context: SocketPortContext;
  readonly #frame = new Frame();
  readonly #run = new OneRun();
  readonly #input = privateMemory(INPUT_BYTES);
  readonly #idle: Output[] = [];
  #inputBytes = 0;
  #outputs = 0;
  #output: Output | undefined;
  #socket: Socket | undefined;
  #server: Server | undefined;
  #claimed: PrivateSocket | undefined;
  /** Grows from attempt to attempt, until the other side has sent a frame. */
  #retryMs = RETRY_MIN_MS;
  #retry: Timer | undefined;
  #isClosed = false;

  private constructor(owner: VirtualSwitch, uplink: SocketUplink, context: SocketPortContext) {
    this.#owner = owner;
    this.#uplink = uplink;
    this.#context = context;
    const { path, vlan } = uplink;
    this.port = owner.connect(this, { name: path, kind: "external", ...(vlan && { vlan }) });
    this.port.setLink(false);
  }

  /**
   * Connects a switch with a socket.
   *
   * Rejects with `PlatformError` (`ERR_SOCKET_IN_USE`, `ERR_SOCKET_PATH`) where it cannot listen, and with the code of
   * Node's error where nobody listens.
   */
  static async open(
    owner: VirtualSwitch,
    uplink: SocketUplink,
    context: SocketPortContext,
  ): Promise<SocketPort> {
    const port = new SocketPort(owner, uplink, context);
    try {
      if (uplink.listen === true) await port.#listen(uplink.path);
      else port.#serve(await connected(uplink.path));
      return port;
    } catch (error) {
      port.close();
      throw error;
    }
  }

  deliver(frame: Frame): boolean {
    const needed = LENGTH_BYTES + frame.lengthBytes;
    if (this.#socket === undefined || needed > OUTPUT_BYTES) return false;
    let output = this.#output;
    if (output !== undefined && output.filled + needed > OUTPUT_BYTES) {
      this.#write();
      output = undefined;
    }
    if (output === undefined) {
      if (this.#outputs >= OUTPUTS_MAX) return false;
      output = this.#idle.pop() ?? { memory: privateMemory(OUTPUT_BYTES), filled: 0 };
      this.#outputs++;
      this.#output = output;
    }
    const { bytes } = output.memory;
    const at = output.filled;
    const lengthBytes = frame.copyTo(output.memory, at + LENGTH_BYTES);
    bytes[at] = lengthBytes >>> 24;
    bytes[at + 1] = lengthBytes >>> 16;
    bytes[at + 2] = lengthBytes >>> 8;
    bytes[at + 3] = lengthBytes;
    output.filled += needed;
    return true;
  }

  flush(): void {
    this.#write();
  }

  linkChanged(): void {
    // The other side sees it when there are no frames.
  }

  /** Takes the port off its switch, and lets the other side go. */
  close(): void {
    this.#isClosed = true;
    this.#retry?.cancel();
    this.#claimed?.release();
    this.#server?.close();
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.destroy();
    this.port.close();
  }

  async #listen(path: string): Promise<void> {
    // One at a time: a second one waits for nothing.
    const server = createServer((socket) => {
      if (this.#socket === undefined) this.#serve(socket);
      else socket.destroy();
    });
    server.unref();
    this.#claimed = await PrivateSocket.claim(path, server);
    server.on("error", () => undefined);
    this.#server = server;
  }

  #serve(socket: Socket): void {
    socket.unref();
    this.#socket = socket;
    this.#inputBytes = 0;
    socket.on("data", (chunk) => this.#read(socket, chunk));
    socket.on("error", () => undefined);
    socket.on("close", () => this.#gone(socket));
    this.port.setLink(true);
  }

  #gone(socket: Socket): void {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    this.#output = undefined;
    this.#outputs = 0;
    this.port.setLink(false);
    if (this.#uplink.listen === true) return;
    this.#context.log(`${this.#uplink.path}: the other side went away; trying to connect again`);
    this.#connectLater();
  }

  #connectLater(): void {
    this.#retry = this.#context.timers.after(this.#retryMs, () => void this.#connectAgain());
    this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MAX_MS);
  }

  async #connectAgain(): Promise<void> {
    const { path } = this.#uplink;
    const socket = await connected(path).catch(() => undefined);
    if (this.#isClosed) socket?.destroy();
    else if (socket === undefined) this.#connectLater();
    else {
      this.#context.log(`${path}: connected again`);
      this.#serve(socket);
    }
  }

  #read(socket: Socket, chunk: Uint8Array): void {
    for (let at = 0; at < chunk.byteLength && socket === this.#socket;) {
      const piece = Math.min(chunk.byteLength - at, INPUT_BYTES - this.#inputBytes);
      this.#input.bytes.set(chunk.subarray(at, at + piece), this.#inputBytes);
      this.#inputBytes += piece;
      at += piece;
      if (this.#takeFrames()) continue;
      this.unframed++;
      socket.destroy();
      this.#gone(socket);
    }
    this.#owner.flush();
  }

  /** Sends the frames that are there. @returns False if a length is none. */
  #takeFrames(): boolean {
    const { bytes } = this.#input;
    let at = 0;
    while (this.#inputBytes - at >= LENGTH_BYTES) {
      const high = (bytes[at]! << 8) | bytes[at + 1]!;
      const lengthBytes = high * 0x1_0000 + ((bytes[at + 2]! << 8) | bytes[at + 3]!);
      if (lengthBytes === 0 || lengthBytes > PACKET_MAX_BYTES) return false;
      if (this.#inputBytes - at < LENGTH_BYTES + lengthBytes) break;
      this.#retryMs = RETRY_MIN_MS;
      this.#send(at + LENGTH_BYTES, lengthBytes);
      at += LENGTH_BYTES + lengthBytes;
    }
    bytes.copyWithin(0, at, this.#inputBytes);
    this.#inputBytes -= at;
    return true;
  }

  #send(at: number, lengthBytes: number): void {
    if (lengthBytes > FRAME_MAX_BYTES) {
      this.tooLong++;
      return;
    }
    this.#run.set(at, lengthBytes);
    this.#frame.load(this.#input, this.#run, 0, lengthBytes);
    this.port.send(this.#frame);
  }

  #write(): void {
    const output = this.#output;
    const socket = this.#socket;
    if (output === undefined || socket === undefined) return;
    this.#output = undefined;
    socket.write(output.memory.bytes.subarray(0, output.filled), () => {
      output.filled = 0;
      this.#idle.push(output);
      if (this.#socket === socket) this.#outputs--;
    });
  }
}

async function connected(path: string): Promise<Socket> {
  const socket = connect(path);
  try {
    await once(socket, "connect");
    return socket;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const isAlone = code === "ENOENT" || code === "ECONNREFUSED";
    const what = isAlone
      ? `${path}: nobody listens there; start the other side first, or add ,listen and have it connect`
      : message;
    throw Object.assign(new Error(what, { cause }), { code });
  }
}
