import {
  TransmitOffload,
  TransmitResult,
  type EthernetPort,
  type EthernetUser,
  type ReceivedFrame,
} from "@hyperv-is/hv-netvsc";
import {
  FixedMemory,
  TAP_EMPTY,
  TAP_GONE,
  TapQueue,
  type TapQueueDescription,
} from "@hyperv-is/platform-node";
import { GpaRanges, type GuestMemory, type PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { EtherType, Ethernet } from "../protocol.js";
import { ReceivedHeader, VLAN_TAG_BYTES, readVnetHeader } from "./frame-offload.js";

/** The longest IP packet with its Ethernet header and a tag. */
const FRAME_BYTES_MAX = 0xffff + Ethernet.HEADER_BYTES + VLAN_TAG_BYTES;
const BUFFER_PAGES = Math.ceil(FRAME_BYTES_MAX / PAGE_SIZE);
/** Frames that may be at the host at a time. */
const BUFFERS_MAX = 32;
/** Frames that are taken at once, before others get their turn. */
const BATCH_FRAMES = 32;
const NONE = -1;

/** What a bridge has done. */
export interface TapBridgeCounters {
  /** Frames of the kernel that could not be sent: an offload that is off, or a header that makes no sense. */
  refused: number;
  /** Frames for which the kernel had no room, or was not up. */
  dropped: number;
}

/** Where a bridge is, and what it may use. */
export interface TapBridgeOptions {
  readonly port: EthernetPort;
  readonly queue: TapQueueDescription;
  readonly memory: GuestMemory;
  /** Of the port's CPU: for frames on their way to the host. */
  readonly allocator: PageAllocator;
  /** Of the interface. */
  readonly mtu: number;
  /** Something can be sent again: the pump must look. */
  readonly wake: () => void;
  /** The channel is closed: no frame comes or goes any more. */
  readonly closed: () => void;
}

/**
 * Joins one channel of an interface with one queue of a TAP, on the channel's CPU: Linux is the guest's network stack.
 * Frames are read into guest memory, where the host finds them, and written from where the host has put them: there is no
 * copy here. Super-frames and partial checksums go on as they are.
 */
export class TapBridge implements EthernetUser {
  readonly counters: TapBridgeCounters = { refused: 0, dropped: 0 };
  readonly #port: EthernetPort;
  readonly #allocator: PageAllocator;
  readonly #queue: TapQueue;
  readonly #bytes: Uint8Array;
  readonly #guest: FixedMemory;
  readonly #wake: () => void;
  readonly #onClosed: () => void;
  readonly #header: ReceivedHeader;
  readonly #offload = new TransmitOffload();
  readonly #tag = new FixedMemory(new Uint8Array(VLAN_TAG_BYTES));
  /** By their numbers: where each buffer is, and its frame. */
  readonly #addresses: number[] = [];
  readonly #frames: GpaRanges[] = [];
  /** Numbers of the buffers that are free; the first of these. */
  readonly #free = new Int32Array(BUFFERS_MAX);
  #freeCount = 0;
  /** The buffer of a frame for which there was no room. */
  #waiting = NONE;
  #isBlocked = false;
  #isOver = false;

  /** Throws if there is no memory for a single buffer. */
  constructor({ port, queue, memory, allocator, mtu, wake, closed }: TapBridgeOptions) {
    this.#port = port;
    this.#allocator = allocator;
    this.#bytes = memory.bytes;
    this.#guest = new FixedMemory(memory.bytes);
    this.#wake = wake;
    this.#onClosed = closed;
    this.#queue = new TapQueue(queue, this.#guest);
    this.#header = new ReceivedHeader(this.#queue.sendHeader, memory.bytes, mtu);
    while (this.#addresses.length < BUFFERS_MAX) {
      const address = allocator.allocate(BUFFER_PAGES);
      if (address === undefined) break;
      this.#free[this.#freeCount++] = this.#addresses.push(address) - 1;
      this.#frames.push(new GpaRanges(memory));
    }
    if (this.#freeCount === 0) throw new Error("no guest memory for frames");
  }

  /** Sends frames of the kernel, a batch at most. @returns True if there was any. */
  drain(): boolean {
    if (this.#isOver || this.#isBlocked) return false;
    let frames = 0;
    if (this.#waiting !== NONE) {
      const buffer = this.#waiting;
      this.#waiting = NONE;
      frames++;
      this.#send(buffer);
    }
    for (; frames < BATCH_FRAMES && this.#freeCount > 0 && this.#waiting === NONE; frames++) {
      const buffer = this.#free[this.#freeCount - 1]!;
      const at = this.#addresses[buffer]!;
      const lengthBytes = this.#queue.receive(at, FRAME_BYTES_MAX);
      if (lengthBytes === TAP_EMPTY) break;
      if (lengthBytes === TAP_GONE) {
        this.#isOver = true;
        break;
      }
      const { receivedHeader } = this.#queue;
      if (!readVnetHeader(receivedHeader, this.#bytes, at, lengthBytes, this.#offload)) {
        this.counters.refused++;
        continue;
      }
      this.#freeCount--;
      const frame = this.#frames[buffer]!;
      frame.clear();
      frame.add(at, lengthBytes);
      this.#send(buffer);
    }
    if (frames > 0) this.#port.flush();
    return frames > 0;
  }

  received(frame: ReceivedFrame): void {
    const queue = this.#queue;
    const isTagged = frame.vlanTag >= 0;
    this.#header.write(frame, isTagged ? VLAN_TAG_BYTES : 0);
    queue.beginFrame();
    const first = frame.runAddress(0);
    const firstBytes = frame.runLength(0);
    if (isTagged && firstBytes >= Ethernet.type) {
      const tag = this.#tag.bytes;
      tag[0] = EtherType.vlan >>> 8;
      tag[1] = EtherType.vlan & 0xff;
      tag[2] = frame.vlanTag >>> 8;
      tag[3] = frame.vlanTag;
      queue.addPiece(this.#guest, first, Ethernet.type);
      queue.addPiece(this.#tag, 0, VLAN_TAG_BYTES);
      queue.addPiece(this.#guest, first + Ethernet.type, firstBytes - Ethernet.type);
    } else queue.addPiece(this.#guest, first, firstBytes);
    let fits = true;
    for (let run = 1; run < frame.runs && fits; run++)
      fits = queue.addPiece(this.#guest, frame.runAddress(run), frame.runLength(run));
    if (!fits || !queue.sendFrame()) this.counters.dropped++;
    this.#port.release(frame.ticket);
  }

  batchEnd(): void {
    // Each frame is with the kernel already.
  }

  transmitted(tag: number, released: boolean): void {
    if (!released) {
      this.#allocator.leak(this.#addresses[tag]!);
      return;
    }
    const wasEmpty = this.#freeCount === 0;
    this.#free[this.#freeCount++] = tag;
    if (wasEmpty) this.#wake();
  }

  transmitReady(): void {
    this.#isBlocked = false;
    this.#wake();
  }

  closed(): void {
    this.#isOver = true;
    for (; this.#freeCount > 0; this.#freeCount--)
      this.#allocator.free(this.#addresses[this.#free[this.#freeCount - 1]!]!);
    if (this.#waiting !== NONE) this.#allocator.free(this.#addresses[this.#waiting]!);
    this.#waiting = NONE;
    this.#onClosed();
  }

  /** Sends the frame in a buffer as `offload` says. */
  #send(buffer: number): void {
    const result = this.#port.transmit(this.#frames[buffer]!, this.#offload, buffer);
    switch (result) {
      case TransmitResult.lent:
        return;
      case TransmitResult.full:
        // Whatever else comes waits behind it, the kernel's queue included.
        this.#waiting = buffer;
        this.#isBlocked = true;
        return;
      case TransmitResult.refused:
        this.counters.refused++;
        break;
      case TransmitResult.closed:
      case TransmitResult.copied:
        break;
    }
    this.#free[this.#freeCount++] = buffer;
  }
}
