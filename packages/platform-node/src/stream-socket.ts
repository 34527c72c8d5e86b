import type { Socket } from "node:net";
import { FixedMemory } from "./fixed-memory.js";
import { libc, type LibC } from "./libc.js";
import { NodeLoop } from "./node-loop.js";
import { isWanted } from "./setting.js";
import { putWords64, VECTOR_WORDS } from "./vectors.js";

/** `StreamSocket.receive` has nothing: no byte waits. */
export const SOCKET_EMPTY = -1;
/** `StreamSocket.receive` has nothing, and will have nothing any more: the peer sends no more. */
export const SOCKET_ENDED = 0;
/** The connection is broken. */
export const SOCKET_BROKEN = -2;

const EINTR = 4;
const EAGAIN = 11;
const SHUT_WR = 1;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
/** Pieces that the system takes in one call. */
const PIECES_PER_CALL = 1024;
/** Pieces that there is room for at first. */
const FIRST_PIECES = 128;
/** What is not longer is copied to where its piece has room for it. */
const SMALL_BYTES = 32;

/**
 * True if sockets are to be read and written past Node: where that can be done, which takes koffi and a Node whose event
 * loop can be waited for, and unless `HYPERV_IS_NATIVE_SOCKETS=off`.
 *
 * @throws PlatformError `ERR_BAD_SETTING`
 */
export function nativeSockets(): boolean {
  return isWanted("HYPERV_IS_NATIVE_SOCKETS") && NodeLoop.isExported();
}

/**
 * A connection that Node has accepted and does not read (`pauseOnConnect`), read and written past Node, on the thread
 * that uses it: what waits to be sent goes in one system call, from where it lies. Nothing here blocks, nor allocates
 * per piece that lies in the memory or is at most 32 bytes long.
 *
 * The socket stays Node's, which closes it.
 */
export class StreamSocket {
  /** What `receive` has taken. */
  readonly received: Uint8Array;
  readonly #libc: LibC = libc();
  #fd: number;
  readonly #memory: FixedMemory;
  readonly #room: FixedMemory;
  readonly #receiveVector = new FixedMemory(new Uint8Array(VECTOR_WORDS * 4));
  readonly #receiveAddress = BigInt(this.#receiveVector.address);
  #pieces = new Pieces(FIRST_PIECES);
  /** Pieces that wait: the first of them, in a ring, and how many. */
  #head = 0;
  #count = 0;
  #waitingBytes = 0;

  /**
   * @param fd - See `fdOf`.
   * @param memory - What lies in it is sent from there.
   * @param roomBytes - How much `receive` takes at most.
   * @throws PlatformError `ERR_KOFFI_MISSING`.
   */
  constructor(fd: number, memory: FixedMemory, roomBytes: number) {
    this.#fd = fd;
    this.#memory = memory;
    this.#room = new FixedMemory(new Uint8Array(roomBytes));
    this.received = this.#room.bytes;
    const words = new Uint32Array(this.#receiveVector.bytes.buffer);
    putWords64(words, 0, this.#room.address);
    putWords64(words, 2, roomBytes);
  }

  /** The file of a socket of Node's; undefined if it does not tell. */
  static fdOf(socket: Socket): number | undefined {
    const { _handle: handle } = socket as { readonly _handle?: { readonly fd?: unknown } | null };
    const fd = handle?.fd;
    return typeof fd === "number" && fd >= 0 ? fd : undefined;
  }

  /** Bytes that were given to `send` and that the system does not have yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /**
   * Asks the system to hold so many bytes that the peer has not read yet, of which it gives as many as `net.core.wmem_max`
   * allows. For a socket of the unix family: of TCP it finds out by itself what is of use, until it is asked.
   */
  setSendBuffer(lengthBytes: number): void {
    const value = new Uint8Array(Int32Array.of(lengthBytes).buffer);
    this.#libc.setsockopt(this.#fd, SOL_SOCKET, SO_SNDBUF, value, value.byteLength);
  }

  /** Takes what has come into `received`, from its beginning. @returns How many bytes, or one of `SOCKET_`. */
  receive(): number {
    const taken = this.#libc.readv(this.#fd, this.#receiveAddress, 1);
    if (taken >= 0) return taken;
    return isTransient(this.#libc.errno()) ? SOCKET_EMPTY : SOCKET_BROKEN;
  }

  /**
   * Appends bytes to what waits for `flush`; at least one.
   * @param bytes - Stay as they are until `done` is called, in `flush` or `drop`.
   */
  send(bytes: Uint8Array, done: () => void): void {
    if (this.#count === this.#pieces.capacity) this.#grow();
    const { capacity } = this.#pieces;
    const index = (this.#head + this.#count++) & (capacity - 1);
    const { byteLength } = bytes;
    this.#waitingBytes += byteLength;
    const { bytes: memory } = this.#memory;
    if (bytes.buffer === memory.buffer) {
      const at = bytes.byteOffset - memory.byteOffset;
      this.#pieces.put(index, this.#memory.addressOf(at, byteLength), byteLength, done);
    } else this.#pieces.putCopy(index, bytes, done);
  }

  /** Hands what waits to the system. @returns `sent`, or `blocked` if there is more than it takes now. */
  flush(): "sent" | "blocked" | "broken" {
    while (this.#count > 0) {
      const head = this.#head;
      const { capacity } = this.#pieces;
      const pieces = Math.min(this.#count, capacity - head, PIECES_PER_CALL);
      const written = this.#libc.writev(this.#fd, this.#pieces.addresses[head]!, pieces);
      if (written >= 0) this.#written(written);
      else {
        const errno = this.#libc.errno();
        if (errno === EAGAIN) return "blocked";
        if (errno !== EINTR) return "broken";
      }
    }
    return "sent";
  }

  /** Tells the peer that nothing more comes. */
  shutDown(): void {
    this.#libc.shutdown(this.#fd, SHUT_WR);
  }

  /** To be called before Node's socket is destroyed: from now on the connection is broken. */
  close(): void {
    this.#fd = -1;
  }

  /** Forgets what waits. */
  drop(): void {
    while (this.#count > 0) this.#finish();
  }

  #written(bytes: number): void {
    while (bytes > 0) {
      const length = this.#pieces.length(this.#head);
      if (bytes < length) {
        this.#pieces.cut(this.#head, bytes);
        this.#waitingBytes -= bytes;
        return;
      }
      bytes -= length;
      this.#finish();
    }
  }

  #finish(): void {
    const head = this.#head;
    this.#waitingBytes -= this.#pieces.length(head);
    // One call takes them all as long as they do not go over the end.
    this.#head = --this.#count === 0 ? 0 : (head + 1) & (this.#pieces.capacity - 1);
    this.#pieces.take(head)();
  }

  #grow(): void {
    const old = this.#pieces;
    const grown = new Pieces(old.capacity * 2);
    for (let index = 0; index < old.capacity; index++)
      grown.move(index, old, (this.#head + index) & (old.capacity - 1));
    this.#pieces = grown;
    this.#head = 0;
  }
}

function isTransient(errno: number): boolean {
  return errno === EAGAIN || errno === EINTR;
}

const NONE = (): void => undefined;

/** Pieces in a row, as writev is given them. */
class Pieces {
  /** A power of two. */
  readonly capacity: number;
  /** Where each is: bigints, which are made once, since numbers of this size would be put on the heap for each call. */
  readonly addresses: readonly bigint[];
  readonly #memory: FixedMemory;
  readonly #words: Uint32Array;
  /** Room for small ones. */
  readonly #small: FixedMemory;
  readonly #done: (() => void)[];
  /** Keeps memory from being collected that a piece lies in. */
  readonly #kept: (FixedMemory | undefined)[];

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#memory = new FixedMemory(new Uint8Array(capacity * VECTOR_WORDS * 4));
    this.#words = new Uint32Array(this.#memory.bytes.buffer);
    this.#small = new FixedMemory(new Uint8Array(capacity * SMALL_BYTES));
    this.#done = Array.from({ length: capacity }, () => NONE);
    this.#kept = Array.from({ length: capacity }, () => undefined);
    const { address } = this.#memory;
    this.addresses = Array.from({ length: capacity }, (_, index) =>
      BigInt(address + index * VECTOR_WORDS * 4),
    );
  }

  put(index: number, address: number, lengthBytes: number, done: () => void): void {
    putWords64(this.#words, index * VECTOR_WORDS, address);
    putWords64(this.#words, index * VECTOR_WORDS + 2, lengthBytes);
    this.#done[index] = done;
  }

  putCopy(index: number, bytes: Uint8Array, done: () => void): void {
    const { byteLength } = bytes;
    let at = 0;
    let target = this.#small;
    if (byteLength <= SMALL_BYTES) at = index * SMALL_BYTES;
    else target = this.#kept[index] = new FixedMemory(new Uint8Array(byteLength));
    target.bytes.set(bytes, at);
    this.put(index, target.addressOf(at, byteLength), byteLength, done);
  }

  length(index: number): number {
    return this.#words[index * VECTOR_WORDS + 2]!;
  }

  /** Takes bytes off its beginning. */
  cut(index: number, bytes: number): void {
    const at = index * VECTOR_WORDS;
    const words = this.#words;
    const low = words[at]! + bytes;
    words[at] = low;
    if (low >= 0x1_0000_0000) words[at + 1]!++;
    words[at + 2]! -= bytes;
  }

  /** Ends a piece. @returns What is to be called. */
  take(index: number): () => void {
    const done = this.#done[index]!;
    this.#done[index] = NONE;
    this.#kept[index] = undefined;
    return done;
  }

  /** Takes a piece of another row, which is not used any more. */
  move(index: number, from: Pieces, fromIndex: number): void {
    const at = fromIndex * VECTOR_WORDS;
    this.#words.set(from.#words.subarray(at, at + VECTOR_WORDS), index * VECTOR_WORDS);
    this.#done[index] = from.#done[fromIndex]!;
    this.#kept[index] = from.#kept[fromIndex] ?? from.#small;
  }
}
