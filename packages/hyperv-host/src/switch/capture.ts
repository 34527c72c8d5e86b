import type { Clock } from "@hyperv-is/vmbus-core";
import { completeChecksum } from "./checksum-offload.js";
import { Frame } from "./frame.js";
import { privateMemory } from "./frame-memory.js";
import { FRAME_MAX_BYTES, HeldFrame } from "./held-frame.js";
import {
  PCAPNG_FRAME_OFFSET,
  pcapngHeader,
  pcapngPacketBytes,
  writePcapngPacket,
} from "./pcapng-writer.js";
import type { FrameObserver } from "./port.js";
import { TcpSegmenter } from "./segmentation.js";
import { insertVlanTag } from "./vlan-tag.js";

/** Bytes that are written at once. */
const BUFFER_BYTES = 256 * 1024;

/** Where a capture goes. */
export interface CaptureSink {
  /** The bytes are valid during the call. */
  write(bytes: Uint8Array): void;
}

/** What a capture needs beside its sink. */
export interface CaptureOptions {
  /** Name of the interface in the file. */
  readonly name: string;
  readonly clock: Clock;
  /** What the clock's zero is, in milliseconds since 1970. */
  readonly originMs: number;
  /** Bytes of each frame that are kept at most; all unless told. */
  readonly snapBytes?: number;
  /** Frames that are captured at most; any number unless told. */
  readonly count?: number;
}

/**
 * The frames of a port as pcapng: what they would be on a wire, with their segments cut, checksums computed and tags
 * among their bytes, whatever the port's ends do themselves.
 */
export class Capture implements FrameObserver {
  readonly #sink: CaptureSink;
  readonly #options: CaptureOptions;
  readonly #snapBytes: number;
  readonly #buffer = privateMemory(BUFFER_BYTES);
  /** The frame that is written: a copy, since others go on with the original. */
  readonly #held = new HeldFrame();
  readonly #segment = new Frame();
  readonly #segmenter = new TcpSegmenter();
  #filled = 0;
  #frames = 0;

  constructor(sink: CaptureSink, options: CaptureOptions) {
    this.#sink = sink;
    this.#options = options;
    this.#snapBytes = options.snapBytes ?? FRAME_MAX_BYTES;
    sink.write(pcapngHeader(options.name, options.snapBytes ?? 0));
  }

  /** Frames that were captured. */
  get frames(): number {
    return this.#frames;
  }

  observe(frame: Frame, isSent: boolean): void {
    const held = this.#held;
    held.hold(frame);
    if (held.segmentBytes > 0) {
      this.#segmenter.begin(held, false);
      while (this.#segmenter.next(this.#segment)) this.#write(this.#segment, isSent);
      return;
    }
    completeChecksum(held);
    this.#write(held, isSent);
  }

  /** Has everything be in the sink. */
  flush(): void {
    if (this.#filled === 0) return;
    this.#sink.write(this.#buffer.bytes.subarray(0, this.#filled));
    this.#filled = 0;
  }

  #write(frame: Frame, isSent: boolean): void {
    if (this.#frames >= (this.#options.count ?? Infinity)) return;
    this.#frames++;
    insertVlanTag(frame);
    const lengthBytes = frame.lengthBytes;
    const keptBytes = Math.min(lengthBytes, this.#snapBytes);
    const blockBytes = pcapngPacketBytes(keptBytes);
    if (this.#filled + blockBytes > BUFFER_BYTES) this.flush();
    const at = this.#filled;
    const { clock, originMs } = this.#options;
    const timeUs = Math.round((originMs + clock.now()) * 1000);
    frame.copyPart(this.#buffer, at + PCAPNG_FRAME_OFFSET, 0, keptBytes);
    writePcapngPacket(this.#buffer.bytes, at, timeUs, keptBytes, lengthBytes, isSent);
    this.#filled += blockBytes;
  }
}
