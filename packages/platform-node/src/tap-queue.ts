import { libc, type LibC } from "./libc.js";
import { VnetHeader, type TapQueueDescription } from "./tap.js";

export interface TapQueueCounters {
  received: number;
  receivedBytes: number;
  sent: number;
  sentBytes: number;
  /** Frames that the kernel did not take: the interface is down, its queue is full, or the header makes no sense. */
  dropped: number;
}

/** `TapQueue.receive` has nothing: no frame waits. */
export const TAP_EMPTY = 0;
/** `TapQueue.receive` has nothing, and will have nothing any more: the interface is gone. */
export const TAP_GONE = -1;

const EINTR = 4;
const EAGAIN = 11;
const POLLIN = 1;
const FOREVER_MS = -1;

/**
 * One queue of a TAP, on the thread that uses it: frames go between the kernel and a memory of the caller, shared or not,
 * in one system call each and with no copy in between. Nothing here allocates per frame.
 */
export class TapQueue {
  /** Header of the frame that was received last: see `VnetHeader`. */
  readonly receivedHeader: DataView;
  /** Header of the frames that are sent; all zeros for a plain one. */
  readonly sendHeader: DataView;
  readonly counters: TapQueueCounters = {
    received: 0,
    receivedBytes: 0,
    sent: 0,
    sentBytes: 0,
    dropped: 0,
  };
  readonly #libc: LibC;
  readonly #fd: number;
  readonly #headerBytes: number;
  readonly #memory: Uint8Array;
  readonly #memoryAddress: number;
  readonly #receiveVectors: Vectors;
  readonly #sendVectors: Vectors;
  /** Two entries of poll: the queue and the stop. */
  readonly #polled = new Uint8Array(16);
  readonly #pollEvents = new Int16Array(this.#polled.buffer);

  /**
   * @param memory - What positions of frames are counted from. Its buffer must not be detached or grow while this is in use.
   * @throws PlatformError `ERR_KOFFI_MISSING`.
   */
  constructor(queue: TapQueueDescription, memory: Uint8Array) {
    this.#libc = libc();
    this.#fd = queue.fd;
    this.#headerBytes = queue.vnetHeaderBytes;
    // The view is kept for its memory to stay, and made from the buffer: small arrays without one move.
    this.#memory = new Uint8Array(memory.buffer, memory.byteOffset, memory.byteLength);
    this.#memoryAddress = this.#libc.addressOf(this.#memory);
    const received = new Uint8Array(VnetHeader.SIZE_MAX);
    const sent = new Uint8Array(VnetHeader.SIZE_MAX);
    this.receivedHeader = new DataView(received.buffer);
    this.sendHeader = new DataView(sent.buffer);
    this.#receiveVectors = new Vectors(this.#libc.addressOf(received), this.#headerBytes, received);
    this.#sendVectors = new Vectors(this.#libc.addressOf(sent), this.#headerBytes, sent);
    const descriptors = new Int32Array(this.#polled.buffer);
    descriptors[0] = queue.fd;
    descriptors[2] = queue.stopFd;
    this.#pollEvents[2] = POLLIN;
    this.#pollEvents[6] = POLLIN;
  }

  /**
   * Takes the next frame.
   * @param at - Where it goes in the memory.
   * @param roomBytes - How much of it is taken: what is longer loses its end. With `TapOffload.tso4` a frame has up to 65,549 bytes.
   * @returns Its length; `TAP_EMPTY`, or `TAP_GONE`.
   */
  receive(at: number, roomBytes: number): number {
    const { bytes } = this.#receiveVectors.point(this.#addressOf(at, roomBytes), roomBytes);
    const taken = this.#libc.readv(this.#fd, bytes, 2);
    if (taken < 0) {
      const errno = this.#libc.errno();
      return errno === EAGAIN || errno === EINTR ? TAP_EMPTY : TAP_GONE;
    }
    const lengthBytes = taken - this.#headerBytes;
    this.counters.received++;
    this.counters.receivedBytes += lengthBytes;
    return lengthBytes;
  }

  /** Sends a frame, behind `sendHeader`. @returns False if the kernel did not take it, which is counted. */
  send(at: number, lengthBytes: number): boolean {
    const { bytes } = this.#sendVectors.point(this.#addressOf(at, lengthBytes), lengthBytes);
    if (this.#libc.writev(this.#fd, bytes, 2) < 0) {
      this.counters.dropped++;
      return false;
    }
    this.counters.sent++;
    this.counters.sentBytes += lengthBytes;
    return true;
  }

  /**
   * Blocks the thread until a frame waits, the TAP is gone, or it is told to stop.
   * @param timeoutMs - At most so long; for ever unless told.
   */
  wait(timeoutMs = FOREVER_MS): "ready" | "stopped" | "timeout" {
    const events = this.#pollEvents;
    events[3] = 0;
    events[7] = 0;
    this.#libc.poll(this.#polled, 2, timeoutMs);
    if (events[7] !== 0) return "stopped";
    return events[3] !== 0 ? "ready" : "timeout";
  }

  /** The address of a position, which is checked: the kernel would read and write anywhere. */
  #addressOf(at: number, lengthBytes: number): number {
    if (!(at >= 0 && lengthBytes >= 0 && at + lengthBytes <= this.#memory.byteLength))
      throw new RangeError(`${lengthBytes} bytes at ${at} are outside the memory`);
    return this.#memoryAddress + at;
  }
}

/** Two entries of readv and writev: a header that stays where it is, and a frame. */
class Vectors {
  readonly bytes = new Uint8Array(32);
  /** Keeps the header's memory from being collected. */
  readonly header: Uint8Array;
  readonly #view = new DataView(this.bytes.buffer);

  constructor(headerAddress: number, headerBytes: number, header: Uint8Array) {
    this.header = header;
    this.#put(0, headerAddress);
    this.#put(8, headerBytes);
  }

  point(address: number, lengthBytes: number): this {
    this.#put(16, address);
    this.#put(24, lengthBytes);
    return this;
  }

  /** A number below 2^53 as 64 bits. */
  #put(at: number, value: number): void {
    this.#view.setUint32(at, value % 0x1_0000_0000, true);
    this.#view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
  }
}
