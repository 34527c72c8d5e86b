import { FixedMemory } from "./fixed-memory.js";
import { libc, type LibC } from "./libc.js";
import { PollSet } from "./poll-set.js";
import { VnetHeader, type TapQueueDescription } from "./tap.js";
import { putWords64, VECTOR_WORDS } from "./vectors.js";

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

/**
 * One queue of a TAP, on the thread that uses it: frames go between the kernel and memories of the caller, shared or
 * not, in one system call each and with no copy in between. Nothing here allocates per frame.
 */
export class TapQueue {
  /** Pieces that a frame may have. */
  static readonly PIECES_MAX = 255;

  /** Header of the frame that was received last: see `VnetHeader`. */
  readonly receivedHeader: DataView;
  /** Header of the frames that `send` sends; all zeros for a plain one. */
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
  readonly #memory: FixedMemory;
  readonly #receiveVectors: Vectors;
  /** For a frame right behind its header. */
  readonly #wholeVectors = new Vectors(undefined, 1);
  /** What `send` sends. */
  readonly #whole: GatheredFrame;
  /** The queue and the stop. */
  readonly #files = new PollSet();

  /**
   * @param memory - What positions of `receive` and `send` are counted from; see `FixedMemory`.
   * @throws PlatformError `ERR_KOFFI_MISSING`.
   */
  constructor(queue: TapQueueDescription, memory: Uint8Array | FixedMemory) {
    this.#libc = libc();
    this.#fd = queue.fd;
    this.#headerBytes = queue.vnetHeaderBytes;
    this.#memory = memory instanceof FixedMemory ? memory : new FixedMemory(memory);
    const received = new FixedMemory(new Uint8Array(VnetHeader.SIZE_MAX));
    this.receivedHeader = new DataView(received.bytes.buffer);
    this.#whole = new GatheredFrame(queue);
    this.sendHeader = this.#whole.header;
    this.#receiveVectors = new Vectors({ memory: received, bytes: this.#headerBytes }, 1);
    this.#files.add(queue.fd);
    this.#files.add(queue.stopFd);
  }

  /**
   * Takes the next frame.
   * @param at - Where it goes in the memory.
   * @param roomBytes - How much of it is taken: what is longer loses its end. With `TapOffload.tso4` a frame has up to 65,549 bytes.
   * @returns Its length; `TAP_EMPTY`, or `TAP_GONE`.
   */
  receive(at: number, roomBytes: number): number {
    const vectors = this.#receiveVectors;
    vectors.clear();
    vectors.add(this.#memory.addressOf(at, roomBytes), roomBytes);
    return this.#taken(this.#libc.readv(this.#fd, vectors.address, vectors.count));
  }

  /**
   * Takes the next frame as `receive` does, but its header goes right in front of it: into the `vnetHeaderBytes` of the queue
   * before `at`. Several frames can be taken before the first is looked at.
   */
  receiveBehindHeader(at: number, roomBytes: number): number {
    const vectors = this.#wholeVectors;
    const lengthBytes = this.#headerBytes + roomBytes;
    vectors.clear();
    vectors.add(this.#memory.addressOf(at - this.#headerBytes, lengthBytes), lengthBytes);
    return this.#taken(this.#libc.readv(this.#fd, vectors.address, vectors.count));
  }

  /** Sends a frame, behind `sendHeader`. @returns False if the kernel did not take it, which is counted. */
  send(at: number, lengthBytes: number): boolean {
    const whole = this.#whole;
    whole.begin();
    whole.addPiece(this.#memory, at, lengthBytes);
    return this.sendGathered(whole);
  }

  /** Sends a frame that was gathered. @returns False if the kernel did not take it, which is counted. */
  sendGathered({ vectors }: GatheredFrame): boolean {
    return this.#sent(this.#libc.writev(this.#fd, vectors.address, vectors.count));
  }

  /**
   * Blocks the thread until a frame waits, the TAP is gone, or it is told to stop.
   * @param timeoutMs - At most so long; for ever unless told.
   */
  wait(timeoutMs = Infinity): "ready" | "stopped" | "timeout" {
    const files = this.#files;
    files.wait(timeoutMs);
    if (files.hasNews(1)) return "stopped";
    return files.hasNews(0) ? "ready" : "timeout";
  }

  #taken(takenBytes: number): number {
    if (takenBytes < 0) {
      const errno = this.#libc.errno();
      return errno === EAGAIN || errno === EINTR ? TAP_EMPTY : TAP_GONE;
    }
    const lengthBytes = takenBytes - this.#headerBytes;
    this.counters.received++;
    this.counters.receivedBytes += lengthBytes;
    return lengthBytes;
  }

  #sent(writtenBytes: number): boolean {
    if (writtenBytes < 0) {
      this.counters.dropped++;
      return false;
    }
    this.counters.sent++;
    this.counters.sentBytes += writtenBytes - this.#headerBytes;
    return true;
  }
}

/** What readv and writev are given: perhaps a header that stays where it is, and a frame in pieces. */
class Vectors {
  /** A bigint, which is made once: a number of this size would be put on the heap for each call. */
  readonly address: bigint;
  count: number;
  /** Keeps the header's memory from being collected. */
  readonly header: FixedMemory | undefined;
  readonly #words: Uint32Array;
  readonly #memory: FixedMemory;
  readonly #headers: number;
  readonly #countMax: number;
  /** Behind the last piece. */
  #end = NaN;

  constructor(header: { memory: FixedMemory; bytes: number } | undefined, piecesMax: number) {
    this.header = header?.memory;
    this.#headers = header === undefined ? 0 : 1;
    this.count = this.#headers;
    this.#countMax = this.#headers + piecesMax;
    this.#words = new Uint32Array(this.#countMax * VECTOR_WORDS);
    this.#memory = new FixedMemory(new Uint8Array(this.#words.buffer));
    this.address = BigInt(this.#memory.address);
    if (header === undefined) return;
    putWords64(this.#words, 0, header.memory.address);
    putWords64(this.#words, 2, header.bytes);
  }

  clear(): void {
    this.count = this.#headers;
    this.#end = NaN;
  }

  /** @returns False if there is no room. */
  add(address: number, lengthBytes: number): boolean {
    const words = this.#words;
    if (address === this.#end) {
      const at = (this.count - 1) * VECTOR_WORDS + 2;
      // Pieces are parts of one memory, which has less than 4 GiB.
      words[at] = words[at]! + lengthBytes;
    } else {
      if (this.count === this.#countMax) return false;
      const at = this.count++ * VECTOR_WORDS;
      putWords64(words, at, address);
      words[at + 2] = lengthBytes;
      words[at + 3] = 0;
    }
    this.#end = address + lengthBytes;
    return true;
  }
}

/** A frame in pieces, with its header, that is sent later than it is gathered: one object for each frame that waits. */
export class GatheredFrame {
  /** Header of the frame: see `VnetHeader`. */
  readonly header: DataView;
  /** For the queue. */
  readonly vectors: Vectors;

  /** @param vnetHeaderBytes - Of the queue that will send it. */
  constructor({ vnetHeaderBytes }: TapQueueDescription) {
    const header = new FixedMemory(new Uint8Array(VnetHeader.SIZE_MAX));
    this.header = new DataView(header.bytes.buffer);
    this.vectors = new Vectors({ memory: header, bytes: vnetHeaderBytes }, TapQueue.PIECES_MAX);
  }

  /** Begins with a frame, which has no pieces yet. */
  begin(): void {
    this.vectors.clear();
  }

  /** Appends a piece, which stays as it is until the frame is sent. @returns False if there are too many. */
  addPiece(memory: FixedMemory, at: number, lengthBytes: number): boolean {
    return this.vectors.add(memory.addressOf(at, lengthBytes), lengthBytes);
  }
}
