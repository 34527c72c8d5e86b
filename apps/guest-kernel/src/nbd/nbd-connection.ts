import type { Socket } from "node:net";
import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import type { ByteStream, StreamPump, StreamUser } from "./byte-stream.js";
import { Handshake, type ExportCatalog } from "./handshake.js";
import type { Admission, NbdExport } from "./nbd-export.js";
import { openStream } from "./open-stream.js";
import { RequestReader } from "./request-reader.js";
import { Transmission, type ReplyLink } from "./transmission.js";

/** How long a client may take to get to its first request. */
const HANDSHAKE_MS = 30_000;
/** Replies that may wait in a handshake: a client has to read one before it asks for the next. */
const HANDSHAKE_BACKLOG_BYTES = 256 * 1024;
/** How long a client that has its last reply may take to close the connection. */
const LINGER_MS = 2_000;

/** What a connection needs to know of its server. */
export interface ConnectionContext {
  /** The exports of its address, the default one first. */
  readonly exports: readonly NbdExport[];
  readonly timers: Timers;
  /** Reads and writes connections past Node; undefined where Node does. */
  readonly pump: StreamPump | undefined;
  /** Nobody is let in any more. */
  readonly isShuttingDown: boolean;
  /** Requests were given to the disk outside a turn of this thread's pump: the answers to the first may be waited for. */
  turnNow(): void;
  /** The connection is gone, and all that it had is given back. */
  released(connection: NbdConnection): void;
}

/** One client: its stream, the handshake, and then its requests. */
export class NbdConnection implements ReplyLink, ExportCatalog, StreamUser {
  readonly #stream: ByteStream;
  readonly #context: ConnectionContext;
  readonly #handshake: Handshake;
  #deadline: Timer;
  #admission: Admission | undefined;
  #transmission: Transmission | undefined;
  #reader: RequestReader | undefined;
  /** What came while requests could not be taken, how far it was read, and where it ends. */
  #held: Uint8Array | undefined;
  #heldAt = 0;
  #heldEnd = 0;
  /** The client sends nothing more. */
  #hasEnded = false;
  #isEnding = false;

  /** @param socket - Accepted by a server with `pauseOnConnect` and `allowHalfOpen`. */
  constructor(socket: Socket, context: ConnectionContext) {
    this.#context = context;
    this.#deadline = context.timers.after(HANDSHAKE_MS, () => this.abort());
    this.#stream = openStream(socket, this, context.pump);
    this.#handshake = new Handshake(this, (bytes) => this.#reply(bytes));
  }

  get isShuttingDown(): boolean {
    return this.#context.isShuttingDown;
  }

  list(): ReturnType<ExportCatalog["list"]> {
    return this.#context.exports.flatMap((one) => one.describe() ?? []);
  }

  find(name: string): ReturnType<ExportCatalog["find"]> {
    return this.#export(name)?.describe();
  }

  admit(name: string): string | undefined {
    const admission = this.#export(name)?.admit() ?? `there is no ${name}`;
    if (typeof admission === "string") return admission;
    this.#admission = admission;
    return undefined;
  }

  get isClosed(): boolean {
    return this.#stream.isClosed;
  }

  send(bytes: Uint8Array, done: () => void): void {
    this.#stream.send(bytes, done);
  }

  ready(): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#held = undefined;
    if (!this.#readRequests(held, this.#heldAt, this.#heldEnd)) return;
    this.#stream.resume();
    if (this.#hasEnded) this.#transmission!.end();
  }

  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#held = undefined;
    this.#stream.end();
    this.#setDeadline(LINGER_MS);
  }

  abort(): void {
    this.#stream.destroy();
  }

  received(bytes: Uint8Array, end: number): void {
    if (this.#isEnding) return;
    let at = 0;
    if (this.#reader === undefined) {
      at = this.#handshake.read(bytes, 0, end);
      const { agreement, isClosed } = this.#handshake;
      if (isClosed) this.end();
      if (agreement === undefined) return;
      this.#deadline.cancel();
      this.#transmission = new Transmission(this.#admission!, agreement, this, () =>
        this.#release(),
      );
      this.#reader = new RequestReader(this.#transmission);
    }
    if (!this.#readRequests(bytes, at, end)) this.#stream.pause();
  }

  ended(): void {
    this.#hasEnded = true;
    if (this.#transmission === undefined) this.end();
    else if (this.#held === undefined) this.#transmission.end();
  }

  closed(): void {
    this.#deadline.cancel();
    this.#held = undefined;
    if (this.#transmission === undefined) this.#release();
    else this.#transmission.closed();
  }

  /** Ends the connection in good order: what it has begun is answered, what comes is refused. */
  shutDown(): void {
    if (this.#transmission === undefined) this.end();
    else this.#transmission.refuse();
  }

  /** Sends a reply of the handshake. */
  #reply(bytes: Uint8Array): void {
    if (this.#stream.waitingBytes > HANDSHAKE_BACKLOG_BYTES) this.abort();
    this.#stream.send(bytes, () => undefined);
  }

  #setDeadline(delayMs: number): void {
    this.#deadline.cancel();
    this.#deadline = this.#context.timers.after(delayMs, () => this.abort());
  }

  #export(name: string): NbdExport | undefined {
    const { exports } = this.#context;
    return name === "" ? exports[0] : exports.find((one) => one.name === name);
  }

  /** @returns Whether all was taken; what was not is held. */
  #readRequests(bytes: Uint8Array, from: number, end: number): boolean {
    const at = this.#reader!.read(bytes, from, end);
    this.#transmission!.flush();
    this.#context.turnNow();
    // A client that is not listened to any more has nothing that would be read later.
    if (at === end || this.#isEnding) return true;
    this.#held = bytes;
    this.#heldAt = at;
    this.#heldEnd = end;
    return false;
  }

  #release(): void {
    this.#admission?.release();
    this.#context.released(this);
  }
}
