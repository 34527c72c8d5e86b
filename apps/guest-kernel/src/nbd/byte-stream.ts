import type { FixedMemory, Vcpu } from "@hyperv-is/platform-node";

/** Whom a stream tells what happens. */
export interface StreamUser {
  /** Bytes have come: those up to `end`. They stay as they are during the call, and while the stream is paused in it. */
  received(bytes: Uint8Array, end: number): void;
  /** The client sends nothing more, but may still listen. */
  ended(): void;
  /** The connection is gone, however that came about. Called once, last of all. */
  closed(): void;
}

/** A connection with a client: bytes both ways, in order. */
export interface ByteStream {
  readonly isClosed: boolean;
  /** Bytes that were to be sent and that the system does not have yet. */
  readonly waitingBytes: number;
  /** Sends bytes, which stay as they are until `done` is called: always, once, and not inside. What is sent in one go goes together. */
  send(bytes: Uint8Array, done: () => void): void;
  /** Stops what comes. */
  pause(): void;
  resume(): void;
  /** Tells the client, behind all that was sent, that nothing more comes, and closes once it sends nothing more either. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
}

/** What streams need of a thread to be read and written by its pump. */
export interface StreamPump extends Pick<Vcpu, "drive" | "watch" | "watchFor" | "doorbell"> {
  /** Guest memory, which bytes are sent from. */
  readonly memory: FixedMemory;
}
