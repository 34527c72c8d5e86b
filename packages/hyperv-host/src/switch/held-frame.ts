import { Frame, NOT_CORRUPT, OneRun } from "./frame.js";
import { privateMemory, type FrameMemory } from "./frame-memory.js";

/** The largest frame: what IP can say, and the headers before it. */
export const FRAME_MAX_BYTES = 0xffff + 14 + 4;

/** A frame of its own, that can wait while its sender goes on. */
export class HeldFrame extends Frame {
  readonly #memory: FrameMemory = privateMemory((FRAME_MAX_BYTES + 7) & ~7);
  readonly #run = new OneRun();

  /** Becomes a copy of a frame, with all that is still to be done to it. */
  hold(frame: Frame): void {
    const lengthBytes = frame.copyTo(this.#memory, 0);
    this.#run.set(0, lengthBytes);
    this.load(this.#memory, this.#run, 0, lengthBytes);
    this.extendHead(frame.headBytes);
    this.segmentBytes = frame.segmentBytes;
    this.checksumStart = frame.checksumStart;
    this.checksumOffset = frame.checksumOffset;
    this.isChecksumValid = frame.isChecksumValid;
    this.invertsVerdict = frame.invertsVerdict;
    this.corruptAt = frame.corruptAt;
    this.vlanTag = frame.vlanTag;
  }

  /** Has the byte at `corruptAt` be wrong; nobody may know before that its checksum is right. */
  corrupt(): void {
    const at = Math.min(this.corruptAt, this.lengthBytes - 1);
    const { bytes } = at < this.headBytes ? this.head : this.#memory;
    bytes[at] = bytes[at]! ^ 0xff;
    this.corruptAt = NOT_CORRUPT;
    this.isChecksumValid = false;
    this.isParsed = false;
  }
}

/** Held frames that are at rest: they are large, and needed again and again. */
export class HeldFramePool {
  readonly #idle: HeldFrame[] = [];

  /** A copy of a frame; it is given back when it is needed no more. */
  hold(frame: Frame): HeldFrame {
    const held = this.#idle.pop() ?? new HeldFrame();
    held.hold(frame);
    return held;
  }

  giveBack(frame: HeldFrame): void {
    this.#idle.push(frame);
  }
}
