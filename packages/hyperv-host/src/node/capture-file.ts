import { closeSync, openSync, writeSync } from "node:fs";
import { PcapngFlag, PcapngWriter } from "@hyperv-is/platform-node";
import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import { NO_VLAN_TAG, type Frame } from "../switch/frame.js";
import { privateMemory } from "../switch/frame-memory.js";
import { FRAME_MAX_BYTES } from "../switch/held-frame.js";
import type { FrameObserver, Port } from "../switch/port.js";
import { insertVlanTag, stripVlanTag } from "../switch/vlan-tag.js";

/** How long frames may wait before they are in the file. */
const FLUSH_MS = 200;

/** Bytes that are written at once. */
const BUFFER_BYTES = 256 * 1024;

/** What of a port is captured. */
export interface CaptureFileOptions {
  readonly path: string;
  /** Name of the interface in the file. */
  readonly name: string;
  /** Bytes of each frame that are kept at most; all unless told. */
  readonly snapBytes?: number;
  /** Frames that are captured at most; any number unless told. */
  readonly count?: number;
}

/**
 * A capture of a port into a pcapng file, from the time it is made until it is closed: its frames with their tags, as
 * they cross it. Of each it says what is left to do: to cut it into segments, to compute its checksum.
 */
export class CaptureFile implements FrameObserver {
  readonly path: string;
  readonly #file: number;
  readonly #port: Port;
  readonly #timers: Timers;
  readonly #count: number;
  readonly #buffer = privateMemory(BUFFER_BYTES);
  readonly #writer: PcapngWriter;
  #timer: Timer | undefined;
  #error: unknown;
  #isClosed = false;

  /** Throws Node's error if the file cannot be made. */
  constructor(port: Port, timers: Timers, options: CaptureFileOptions) {
    const { path, name, snapBytes = FRAME_MAX_BYTES, count = Infinity } = options;
    this.path = path;
    this.#file = openSync(path, "w");
    this.#port = port;
    this.#timers = timers;
    const originMs = Date.now() - timers.now();
    this.#count = count;
    this.#writer = new PcapngWriter({
      application: "hyperv-host",
      interfaces: [{ name, description: port.name, macAddress: port.mac }],
      snapLengthBytes: Math.min(snapBytes, FRAME_MAX_BYTES),
      buffer: this.#buffer.bytes,
      nowUs: () => (originMs + timers.now()) * 1_000,
      write: (chunk) => this.#write(chunk),
    });
    port.addObserver(this);
    this.#flushLater();
  }

  /** Frames that were captured. */
  get frames(): number {
    return this.#writer.counters[0]!.packets;
  }

  observe(frame: Frame, isSent: boolean): void {
    if (this.frames >= this.#count) return;
    const isTagged = frame.vlanTag !== NO_VLAN_TAG;
    if (isTagged) insertVlanTag(frame);
    const { lengthBytes } = frame;
    const at = this.#writer.reserve(0, lengthBytes, flagsOf(frame, isSent));
    const keptBytes = Math.min(lengthBytes, this.#writer.snapLengthBytes);
    if (at >= 0) frame.copyPart(this.#buffer, at, 0, keptBytes);
    // Others go on with the frame.
    if (isTagged) stripVlanTag(frame);
  }

  /** Ends the capture; throws what went wrong while the file was written. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#timer?.cancel();
    this.#port.removeObserver(this);
    this.#writer.close();
    closeSync(this.#file);
    if (this.#error !== undefined) throw this.#error as Error;
  }

  #write(bytes: Uint8Array): boolean {
    try {
      for (let done = 0; this.#error === undefined && done < bytes.byteLength;)
        done += writeSync(this.#file, bytes, done, bytes.byteLength - done);
    } catch (error) {
      this.#error = error;
    }
    return this.#error === undefined;
  }

  #flushLater(): void {
    this.#timer = this.#timers.after(FLUSH_MS, () => {
      this.#writer.flush();
      this.#flushLater();
    });
  }
}

/** `PcapngFlag` of a frame. */
function flagsOf(frame: Frame, isSent: boolean): number {
  const direction = isSent ? PcapngFlag.outbound : PcapngFlag.inbound;
  if (frame.checksumStart === 0)
    return frame.isChecksumValid ? direction | PcapngFlag.checksumValid : direction;
  const isLarge = frame.segmentBytes > 0;
  return direction | PcapngFlag.checksumNotReady | (isLarge ? PcapngFlag.segmentationOffloaded : 0);
}
