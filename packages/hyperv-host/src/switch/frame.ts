import type { GpaRuns } from "@hyperv-is/vmbus-core";
import { copyFrameBytes, privateMemory, type FrameMemory } from "./frame-memory.js";
import { foldSum, sumBytes, sumRuns, swapSum } from "./internet-checksum.js";

/** Bytes of a frame that are copied at first: all headers of nearly every frame. */
const HEAD_BYTES = 128;

/** Most bytes that the headers of a frame may take: a transport header at the largest offset that RNDIS can tell. */
export const HEADERS_MAX_BYTES = 1024 + 60;

/** Room for them, and for a VLAN tag: most bytes of a head. */
export const HEAD_CAPACITY_BYTES = (HEADERS_MAX_BYTES + 20 + 7) & ~7;

/** Value of `Frame.vlanTag` for a frame without one. */
export const NO_VLAN_TAG = -1;

/** Value of `Frame.corruptAt` for a frame that is to arrive as it is. */
export const NOT_CORRUPT = -1;

/** Runs of memory that are one. */
export class OneRun implements GpaRuns {
  readonly runs = 1;
  #address = 0;
  #lengthBytes = 0;

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  set(address: number, lengthBytes: number): void {
    this.#address = address;
    this.#lengthBytes = lengthBytes;
  }

  runAddress(): number {
    return this.#address;
  }

  runLength(): number {
    return this.#lengthBytes;
  }
}

/** For a frame that nothing was loaded into. */
const noMemory = privateMemory(0);
const noRuns = new OneRun();

/**
 * An Ethernet frame without its FCS on its way between two ports, and what is still to be done to it. One object
 * serves many frames.
 *
 * Its first bytes, all headers among them, are a private copy: what is decided on them stays true, and they can be
 * changed. The bytes behind them stay where the sender has them, which may write them at any time.
 */
export class Frame {
  /** The first bytes, from address 0 on. */
  readonly head: FrameMemory = privateMemory(HEAD_CAPACITY_BYTES);
  headBytes = 0;
  /** Where the bytes behind the head are: `bodyBytes` bytes of `runs`, from `bodyOffset` on. */
  memory: FrameMemory = noMemory;
  runs: GpaRuns = noRuns;
  bodyOffset = 0;
  bodyBytes = 0;

  /**
   * Payload bytes that each segment shall have, if this is a TCP super-frame; else 0. Lengths and the checksum of its
   * IP header are those of the whole, and its TCP checksum is partial.
   */
  segmentBytes = 0;
  /**
   * If the transport checksum is partial, where the bytes that it covers begin; else 0. The field at `checksumStart +
   * checksumOffset` holds the sum of the pseudo-header, the length included.
   */
  checksumStart = 0;
  checksumOffset = 0;
  /** The transport checksum is known to be right. */
  isChecksumValid = false;
  /** A fault: the receiver is to be told the opposite of what its checksums are. */
  invertsVerdict = false;
  /** A fault: this byte, or the last if there are fewer, is to be wrong when it arrives; else `NOT_CORRUPT`. */
  corruptAt = NOT_CORRUPT;
  /** The bytes behind the head stay as they are until the switch has been flushed; else until the frame has been delivered. */
  isLasting = false;
  /** Priority, DEI and VLAN id as in an 802.1Q tag, for a frame whose tag is not among its bytes; else `NO_VLAN_TAG`. */
  vlanTag = NO_VLAN_TAG;

  /** What the headers say, once `parseHeaders` has looked at them. */
  isParsed = false;
  /** 4 or 6 for an IP packet without mistakes in its header; else 0. */
  ipVersion = 0;
  /** Where the network header begins. */
  networkAt = 0;
  /** Where the transport header begins; 0 without one: no IP, a fragment, a header that is not understood. */
  transportAt = 0;
  /** IP protocol of the transport header. */
  protocol = 0;
  /** Where the IP packet ends; padding may follow. */
  packetEnd = 0;

  get lengthBytes(): number {
    return this.headBytes + this.bodyBytes;
  }

  /** Becomes the frame of `lengthBytes` bytes of `runs`, from `offset` on; nothing is to be done to it. */
  load(memory: FrameMemory, runs: GpaRuns, offset: number, lengthBytes: number): void {
    this.memory = memory;
    this.runs = runs;
    this.bodyOffset = offset;
    this.bodyBytes = lengthBytes;
    this.headBytes = 0;
    this.vlanTag = NO_VLAN_TAG;
    this.isLasting = false;
    this.#nothingToDo();
    this.extendHead(HEAD_BYTES);
  }

  /** Has at least so many bytes in the head, at most `HEADERS_MAX_BYTES`, as far as the frame has them. */
  extendHead(wantedBytes: number): void {
    const wanted = Math.min(wantedBytes, HEADERS_MAX_BYTES, this.lengthBytes);
    const more = wanted - this.headBytes;
    if (more <= 0) return;
    copyRuns(this.head, this.headBytes, this.memory, this.runs, this.bodyOffset, more);
    this.headBytes = wanted;
    this.bodyOffset += more;
    this.bodyBytes -= more;
  }

  /**
   * Becomes a part of another frame: the first `headBytes` of its head, and `bodyBytes` bytes from byte `from` on, which
   * lie behind its headers.
   */
  slice(frame: Frame, headBytes: number, from: number, bodyBytes: number): void {
    copyFrameBytes(this.head, 0, frame.head, 0, headBytes);
    this.headBytes = headBytes;
    this.memory = frame.memory;
    this.runs = frame.runs;
    this.bodyOffset = frame.bodyOffset - frame.headBytes + from;
    this.bodyBytes = bodyBytes;
    this.vlanTag = frame.vlanTag;
    this.isLasting = frame.isLasting;
    this.#nothingToDo();
  }

  /** Copies the whole frame. @returns Its length in bytes. */
  copyTo(target: FrameMemory, to: number): number {
    copyFrameBytes(target, to, this.head, 0, this.headBytes);
    copyRuns(target, to + this.headBytes, this.memory, this.runs, this.bodyOffset, this.bodyBytes);
    return this.lengthBytes;
  }

  /** Copies bytes `from` to `from + lengthBytes` of the frame. */
  copyPart(target: FrameMemory, to: number, from: number, lengthBytes: number): void {
    const ofHead = Math.max(Math.min(this.headBytes - from, lengthBytes), 0);
    if (ofHead > 0) copyFrameBytes(target, to, this.head, from, ofHead);
    if (ofHead === lengthBytes) return;
    const offset = this.bodyOffset + from + ofHead - this.headBytes;
    copyRuns(target, to + ofHead, this.memory, this.runs, offset, lengthBytes - ofHead);
  }

  /** One's complement sum of the bytes from `from` to `to`. */
  sum(from: number, to: number): number {
    const ofHead = Math.max(Math.min(this.headBytes, to) - from, 0);
    const head = ofHead > 0 ? sumBytes(this.head, from, ofHead) : 0;
    const rest = to - from - ofHead;
    if (rest <= 0) return head;
    const offset = this.bodyOffset + from + ofHead - this.headBytes;
    const body = sumRuns(this.memory, this.runs, offset, rest);
    return foldSum(head + ((ofHead & 1) === 0 ? body : swapSum(body)));
  }

  #nothingToDo(): void {
    this.segmentBytes = 0;
    this.checksumStart = 0;
    this.checksumOffset = 0;
    this.isChecksumValid = false;
    this.invertsVerdict = false;
    this.corruptAt = NOT_CORRUPT;
    this.isParsed = false;
  }
}

/** Copies bytes that lie in runs of memory, `offset` from the start of the first. */
export function copyRuns(
  target: FrameMemory,
  to: number,
  source: FrameMemory,
  runs: GpaRuns,
  offset: number,
  lengthBytes: number,
): void {
  let skip = offset;
  let done = 0;
  for (let run = 0; done < lengthBytes && run < runs.runs; run++) {
    const length = runs.runLength(run);
    if (skip >= length) {
      skip -= length;
      continue;
    }
    const piece = Math.min(length - skip, lengthBytes - done);
    copyFrameBytes(target, to + done, source, runs.runAddress(run) + skip, piece);
    done += piece;
    skip = 0;
  }
}
