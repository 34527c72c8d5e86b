import {
  TransmitOffload,
  TransmitResult,
  type EthernetPort,
  type EthernetUser,
  type ReceivedFrame,
} from "@hyperv-is/hv-netvsc";
import {
  FixedMemory,
  GatheredFrame,
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
/** Where a frame begins in its buffer: the kernel's header is right before it. */
const FRAME_OFFSET = 16;
const BUFFER_PAGES = Math.ceil((FRAME_OFFSET + FRAME_BYTES_MAX) / PAGE_SIZE);
/** Frames that may be at the host at a time. */
const BUFFERS_MAX = 32;
/**
 * Frames that are taken at once, before others get their turn. All are taken before the first is sent: what the kernel copies
 * drives everything else out of the processor's caches, and so that happens once for all of them.
 */
const BATCH_FRAMES = 8;

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
  /** Frames for the kernel that are gathered: the first of these. */
  readonly #received: ReceivedBridgeFrame[];
  #receivedCount = 0;
  /** By their numbers: where each buffer is, and its frame. */
  readonly #addresses: number[] = [];
  readonly #frames: GpaRanges[] = [];
  /** Numbers of the buffers that are free; the first of these. */
  readonly #free = new Int32Array(BUFFERS_MAX);
  #freeCount = 0;
  /** Buffers with frames that were taken, and the bytes of these: from `#next` to `#taken` they are still to be sent. */
  readonly #batch = new Int32Array(BATCH_FRAMES);
  readonly #lengths = new Int32Array(BATCH_FRAMES);
  #next = 0;
  #taken = 0;
  readonly #headerBytes: number;
  /** There is no room for the next one. */
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
    this.#headerBytes = queue.vnetHeaderBytes;
    this.#header = new ReceivedHeader(memory.bytes, mtu);
    this.#received = Array.from({ length: BATCH_FRAMES }, () => new ReceivedBridgeFrame(queue));
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
    if (this.#next === this.#taken) this.#take();
    if (this.#next === this.#taken) return false;
    while (this.#next < this.#taken && this.#send());
    this.#port.flush();
    return true;
  }

  received(frame: ReceivedFrame): void {
    const next = this.#received[this.#receivedCount]!;
    this.#header.write(next.gathered.header, frame, frame.vlanTag >= 0 ? VLAN_TAG_BYTES : 0);
    if (!next.gather(frame, this.#guest)) {
      this.counters.dropped++;
      this.#port.release(frame.ticket);
    } else if (++this.#receivedCount === BATCH_FRAMES) this.batchEnd();
  }

  /** The kernel gets what was gathered, and then the host its memory back. */
  batchEnd(): void {
    const count = this.#receivedCount;
    this.#receivedCount = 0;
    for (let index = 0; index < count; index++)
      if (!this.#queue.sendGathered(this.#received[index]!.gathered)) this.counters.dropped++;
    for (let index = 0; index < count; index++) this.#port.release(this.#received[index]!.ticket);
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
    this.#receivedCount = 0;
    for (; this.#freeCount > 0; this.#freeCount--)
      this.#allocator.free(this.#addresses[this.#free[this.#freeCount - 1]!]!);
    while (this.#next < this.#taken)
      this.#allocator.free(this.#addresses[this.#batch[this.#next++]!]!);
    this.#onClosed();
  }

  /** Takes what waits at the kernel, a batch at most. */
  #take(): void {
    this.#next = 0;
    this.#taken = 0;
    while (this.#taken < BATCH_FRAMES && this.#freeCount > 0) {
      const buffer = this.#free[this.#freeCount - 1]!;
      const at = this.#addresses[buffer]! + FRAME_OFFSET;
      const lengthBytes = this.#queue.receiveBehindHeader(at, FRAME_BYTES_MAX);
      // A TAP that is gone stays empty.
      if (lengthBytes === TAP_EMPTY || lengthBytes === TAP_GONE) return;
      this.#freeCount--;
      this.#batch[this.#taken] = buffer;
      this.#lengths[this.#taken++] = lengthBytes;
    }
  }

  /** Sends the next frame of the batch as its header says. @returns False if there is no room. */
  #send(): boolean {
    const buffer = this.#batch[this.#next]!;
    const lengthBytes = this.#lengths[this.#next]!;
    const at = this.#addresses[buffer]! + FRAME_OFFSET;
    const offload = this.#offload;
    if (readVnetHeader(this.#bytes, at - this.#headerBytes, at, lengthBytes, offload)) {
      const frame = this.#frames[buffer]!;
      frame.clear();
      frame.add(at, lengthBytes);
      const result = this.#port.transmit(frame, offload, buffer);
      if (result === TransmitResult.full) {
        // Whatever else comes waits behind it, the kernel's queue included.
        this.#isBlocked = true;
        return false;
      }
      this.#next++;
      if (result === TransmitResult.lent) return true;
      if (result === TransmitResult.refused) this.counters.refused++;
    } else {
      this.#next++;
      this.counters.refused++;
    }
    this.#free[this.#freeCount++] = buffer;
    return true;
  }
}

/** A received frame on its way to the kernel. */
class ReceivedBridgeFrame {
  readonly gathered: GatheredFrame;
  /** What the port gets back. */
  ticket = 0;
  readonly #tag = new FixedMemory(new Uint8Array(VLAN_TAG_BYTES));

  constructor(queue: TapQueueDescription) {
    this.gathered = new GatheredFrame(queue);
  }

  /** Notes where a frame lies in guest memory, with its tag among its bytes. @returns False if it has too many pieces. */
  gather(frame: ReceivedFrame, guest: FixedMemory): boolean {
    const { gathered } = this;
    this.ticket = frame.ticket;
    gathered.begin();
    const first = frame.runAddress(0);
    const firstBytes = frame.runLength(0);
    if (frame.vlanTag >= 0 && firstBytes >= Ethernet.type) {
      const tag = this.#tag.bytes;
      tag[0] = EtherType.vlan >>> 8;
      tag[1] = EtherType.vlan & 0xff;
      tag[2] = frame.vlanTag >>> 8;
      tag[3] = frame.vlanTag;
      gathered.addPiece(guest, first, Ethernet.type);
      gathered.addPiece(this.#tag, 0, VLAN_TAG_BYTES);
      gathered.addPiece(guest, first + Ethernet.type, firstBytes - Ethernet.type);
    } else gathered.addPiece(guest, first, firstBytes);
    for (let run = 1; run < frame.runs; run++)
      if (!gathered.addPiece(guest, frame.runAddress(run), frame.runLength(run))) return false;
    return true;
  }
}
