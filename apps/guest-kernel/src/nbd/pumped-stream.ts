import type { Socket } from "node:net";
import { SOCKET_EMPTY, SOCKET_ENDED, StreamSocket } from "@hyperv-is/platform-node";
import type { ByteStream, StreamPump, StreamUser } from "./byte-stream.js";

/** Taken by one system call at most. */
const RECEIVE_BYTES = 256 * 1024;
/** What a client on this system may have waiting: enough that it and this thread seldom wait for each other. */
const SEND_BYTES = 1024 * 1024;

/** A stream that the thread's pump reads and writes, past Node: what can be sent after a turn of work goes in one system call. */
export class PumpedStream implements ByteStream {
  readonly #socket: Socket;
  readonly #fd: number;
  readonly #user: StreamUser;
  readonly #pump: StreamPump;
  readonly #stream: StreamSocket;
  readonly #stopDriving: () => void;
  readonly #unwatch: () => void;
  /** Something may have come, or can be sent again. */
  #hasNews = true;
  /** The client takes nothing now. */
  #isBlocked = false;
  #isPaused = false;
  /** The client sends nothing more. */
  #hasEnded = false;
  /** Nothing more is sent, and whether the client was told. */
  #isEnding = false;
  #isShutDown = false;
  /** What was sent goes out when the running code is done, if not before. */
  #isFlushing = false;

  constructor(socket: Socket, fd: number, user: StreamUser, pump: StreamPump) {
    this.#socket = socket;
    this.#fd = fd;
    this.#user = user;
    this.#pump = pump;
    this.#stream = new StreamSocket(fd, pump.memory, RECEIVE_BYTES);
    const isUnix = socket.remoteFamily === undefined;
    if (isUnix) this.#stream.setSendBuffer(SEND_BYTES);
    socket.on("error", () => undefined);
    socket.on("close", () => this.#closed());
    this.#unwatch = pump.watch(fd, () => (this.#hasNews = true));
    this.#stopDriving = pump.drive({ drain: () => this.#drain() });
  }

  get isClosed(): boolean {
    return this.#socket.destroyed;
  }

  get waitingBytes(): number {
    return this.#stream.waitingBytes;
  }

  send(bytes: Uint8Array, done: () => void): void {
    if (this.isClosed) {
      queueMicrotask(done);
      return;
    }
    this.#stream.send(bytes, done);
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    queueMicrotask(this.#flushLater);
  }

  pause(): void {
    this.#isPaused = true;
    this.#watch();
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#hasNews = true;
    this.#watch();
    this.#pump.doorbell.ring();
  }

  end(): void {
    this.#isEnding = true;
    this.#finish();
    this.resume();
  }

  destroy(): void {
    if (this.isClosed) return;
    this.#stopDriving();
    this.#unwatch();
    this.#stream.close();
    this.#socket.destroy();
  }

  #drain(): boolean {
    const { waitingBytes } = this.#stream;
    const hasNews = this.#hasNews;
    if (waitingBytes > 0 && (hasNews || !this.#isBlocked)) this.#flush();
    return (hasNews && this.#receive()) || this.#stream.waitingBytes < waitingBytes;
  }

  #flush(): void {
    const outcome = this.#stream.flush();
    if (this.isClosed) return;
    if (outcome === "broken") {
      this.destroy();
      return;
    }
    const isBlocked = outcome === "blocked";
    if (isBlocked !== this.#isBlocked) {
      this.#isBlocked = isBlocked;
      this.#watch();
    }
    this.#finish();
  }

  readonly #flushLater = (): void => {
    this.#isFlushing = false;
    if (!this.#isBlocked && !this.isClosed) this.#flush();
  };

  #receive(): boolean {
    // It is looked at again once it goes on.
    this.#hasNews = false;
    if (this.#isPaused || this.#hasEnded || this.isClosed) return false;
    const { received } = this.#stream;
    const taken = this.#stream.receive();
    this.#hasNews = taken === received.byteLength;
    if (taken === SOCKET_EMPTY) return false;
    if (taken > 0) {
      // The pump tells once of a connection that is broken or over: of that it shall tell again behind these bytes.
      if (!this.#hasNews) this.#watch();
      this.#user.received(received, taken);
    } else if (taken === SOCKET_ENDED) {
      this.#hasEnded = true;
      this.#watch();
      this.#user.ended();
      this.#finish();
    } else this.destroy();
    return true;
  }

  /** Does what comes behind all that was sent. */
  #finish(): void {
    if (!this.#isEnding || this.isClosed || this.#stream.waitingBytes > 0) return;
    if (!this.#isShutDown) {
      this.#isShutDown = true;
      this.#stream.shutDown();
    }
    // A socket that is closed while something comes may take the last replies back from the client.
    if (this.#hasEnded) this.destroy();
  }

  #watch(): void {
    if (!this.isClosed)
      this.#pump.watchFor(this.#fd, !this.#isPaused && !this.#hasEnded, this.#isBlocked);
  }

  #closed(): void {
    this.#stream.drop();
    this.#user.closed();
  }
}
