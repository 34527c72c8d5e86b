import {
  FixedMemory,
  GatheredFrame,
  TAP_EMPTY,
  TAP_GONE,
  Tap,
  TapOffload,
  TapQueue,
  VnetHeader,
  type TapQueueDescription,
} from "@hyperv-is/platform-node";
import type { TapUplink } from "../network-config.js";
import { Frame, HEAD_CAPACITY_BYTES, OneRun } from "../switch/frame.js";
import { copyFrameBytes, privateMemory, type FrameMemory } from "../switch/frame-memory.js";
import { FRAME_MAX_BYTES } from "../switch/held-frame.js";
import type { Port } from "../switch/port.js";
import type { PortEnd, PortOffloads } from "../switch/switch-port.js";
import { readVirtioNetHeader, writeVirtioNetHeader } from "../switch/virtio-net-header.js";
import type { VirtualSwitch } from "../switch/virtual-switch.js";

/**
 * Frames that are taken of the kernel before the first of them is sent on, and that are gathered before they go to the
 * kernel: what it copies drives everything else out of the processor's caches, and so that happens once for all of them.
 */
const BATCH_FRAMES = 8;

/** Where a frame begins in its buffer: the kernel's header is right before it. */
const FRAME_OFFSET = 16;
const BUFFER_BYTES = (FRAME_OFFSET + FRAME_MAX_BYTES + 7) & ~7;

/** What the kernel does with what it gets: everything, but for VLAN tags that are not in their frames. */
const kernelOffloads: PortOffloads = {
  partialChecksum: true,
  segmentation4: true,
  segmentation6: true,
  vlanTag: false,
};

/**
 * A port of a switch that leads to a TAP, and so to the network of the host's kernel. Super-frames and partial
 * checksums cross it both ways as they are. What is sent goes straight from where it lies to the kernel.
 */
export class TapPort implements PortEnd {
  readonly offloads = kernelOffloads;
  readonly port: Port;
  /** Frames of the kernel whose header contradicts them, or asks for what is not done here. */
  unreadable = 0;
  readonly #owner: VirtualSwitch;
  readonly #tap: Tap;
  readonly #queue: TapQueue;
  readonly #headerBytes: number;
  readonly #input = privateMemory(BATCH_FRAMES * BUFFER_BYTES);
  /** Lengths of the frames in there, in bytes. */
  readonly #lengths = new Int32Array(BATCH_FRAMES);
  /** Where a frame is gathered that lies in too many pieces. */
  #gathered: FrameMemory | undefined;
  /** Where the memories are that frames come from: few, and they stay. */
  readonly #fixed = new WeakMap<FrameMemory, FixedMemory>();
  readonly #sent: WaitingFrame;
  /** Frames that go to the kernel at the next flush: the first of these. */
  readonly #waiting: WaitingFrame[];
  #waitingCount = 0;
  readonly #frame = new Frame();
  readonly #run = new OneRun();
  #isGone = false;

  /**
   * Connects a switch with a TAP, which is made unless it exists, and has it up.
   *
   * Throws `PlatformError` as `Tap.open` does.
   */
  constructor(owner: VirtualSwitch, { name, netns, mtu, vlan }: TapUplink) {
    this.#owner = owner;
    this.#tap = Tap.open({
      name,
      offload: TapOffload.checksum | TapOffload.tso4 | TapOffload.tso6,
      ...(netns !== undefined && { netns }),
      ...(mtu !== undefined && { mtu }),
    });
    const [queue] = this.#tap.queues;
    this.#queue = new TapQueue(queue!, this.#input.bytes);
    this.#headerBytes = queue!.vnetHeaderBytes;
    this.#sent = new WaitingFrame(queue!);
    this.#waiting = Array.from({ length: BATCH_FRAMES }, () => new WaitingFrame(queue!));
    try {
      this.port = owner.connect(this, {
        name: this.#tap.name,
        kind: "external",
        ...(vlan && { vlan }),
      });
      this.#tap.isUp = true;
    } catch (error) {
      this.#tap.close();
      throw error;
    }
  }

  /** File that can be read when the kernel has frames. */
  get fd(): number {
    return this.#tap.queues[0]!.fd;
  }

  /** Takes frames of the kernel, a batch at most. @returns True if there was any. */
  poll(): boolean {
    if (this.#isGone) return false;
    let frames = 0;
    for (; frames < BATCH_FRAMES; frames++) {
      const at = frames * BUFFER_BYTES + FRAME_OFFSET;
      const lengthBytes = this.#queue.receiveBehindHeader(at, FRAME_MAX_BYTES);
      if (lengthBytes === TAP_EMPTY) break;
      if (lengthBytes === TAP_GONE) {
        this.#isGone = true;
        this.port.setLink(false);
        break;
      }
      this.#lengths[frames] = lengthBytes;
    }
    for (let index = 0; index < frames; index++) this.#send(index);
    if (frames > 0) this.#owner.flush();
    return frames > 0;
  }

  /**
   * Frames whose bytes last are gathered, and go to the kernel together: what it copies drives everything else out of the
   * processor's caches.
   */
  deliver(frame: Frame): boolean {
    const waits = frame.isLasting;
    const next = waits ? this.#waiting[this.#waitingCount]! : this.#sent;
    if (!this.#gather(frame, next)) {
      // In too many pieces: a copy goes at once.
      this.flush();
      this.#gathered ??= privateMemory(BUFFER_BYTES);
      next.begin(frame);
      next.addPiece(this.#fixedOf(this.#gathered), 0, frame.copyTo(this.#gathered, 0));
      return this.#queue.sendGathered(next.gathered);
    }
    if (!waits) {
      this.flush();
      return this.#queue.sendGathered(next.gathered);
    }
    if (++this.#waitingCount === BATCH_FRAMES) this.flush();
    return true;
  }

  flush(): void {
    const count = this.#waitingCount;
    this.#waitingCount = 0;
    const { counters } = this.port;
    for (let index = 0; index < count; index++) {
      if (this.#queue.sendGathered(this.#waiting[index]!.gathered)) continue;
      counters.framesDelivered--;
      counters.droppedByEnd++;
    }
  }

  linkChanged(isUp: boolean): void {
    if (!this.#isGone) this.#tap.setCarrier(isUp);
  }

  /** Takes the port off its switch. The TAP is gone if it was made here. */
  close(): void {
    this.port.close();
    this.#tap.close();
  }

  /** Sends the frame in a buffer on. */
  #send(index: number): void {
    const frame = this.#frame;
    const at = index * BUFFER_BYTES + FRAME_OFFSET;
    const lengthBytes = this.#lengths[index]!;
    this.#run.set(at, lengthBytes);
    frame.load(this.#input, this.#run, 0, lengthBytes);
    frame.isLasting = true;
    if (readVirtioNetHeader(frame, this.#input.bytes, at - this.#headerBytes))
      this.port.send(frame);
    else this.unreadable++;
  }

  /** Notes where a frame lies. @returns False if it has too many pieces. */
  #gather(frame: Frame, target: WaitingFrame): boolean {
    const { memory, runs, bodyBytes } = frame;
    target.begin(frame);
    target.addHead(frame);
    if (bodyBytes === 0) return true;
    const body = this.#fixedOf(memory);
    let skip = frame.bodyOffset;
    let rest = bodyBytes;
    for (let run = 0; rest > 0; run++) {
      const runBytes = runs.runLength(run);
      if (skip >= runBytes) {
        skip -= runBytes;
        continue;
      }
      const pieceBytes = Math.min(runBytes - skip, rest);
      if (!target.addPiece(body, runs.runAddress(run) + skip, pieceBytes)) return false;
      rest -= pieceBytes;
      skip = 0;
    }
    return true;
  }

  #fixedOf(memory: FrameMemory): FixedMemory {
    let fixed = this.#fixed.get(memory);
    if (fixed === undefined) {
      fixed = new FixedMemory(memory.bytes);
      this.#fixed.set(memory, fixed);
    }
    return fixed;
  }
}

/** A frame on its way to the kernel: its headers, and where the rest of it is. */
class WaitingFrame {
  readonly gathered: GatheredFrame;
  readonly #header: Uint8Array;
  readonly #head = privateMemory(HEAD_CAPACITY_BYTES);
  readonly #fixedHead = new FixedMemory(this.#head.bytes);

  constructor(queue: TapQueueDescription) {
    this.gathered = new GatheredFrame(queue);
    this.#header = bytesOf(this.gathered.header);
  }

  begin(frame: Frame): void {
    writeVirtioNetHeader(frame, this.#header, 0);
    this.gathered.begin();
  }

  /** Appends a copy of the head of a frame: the next frame's is where this one's was. */
  addHead({ head, headBytes }: Frame): void {
    copyFrameBytes(this.#head, 0, head, 0, headBytes);
    this.gathered.addPiece(this.#fixedHead, 0, headBytes);
  }

  /** @returns False if there are too many. */
  addPiece(memory: FixedMemory, at: number, lengthBytes: number): boolean {
    return this.gathered.addPiece(memory, at, lengthBytes);
  }
}

/** The bytes of a header, whose size is that without a count of buffers. */
function bytesOf(header: DataView): Uint8Array {
  return new Uint8Array(header.buffer, header.byteOffset, VnetHeader.SIZE);
}
