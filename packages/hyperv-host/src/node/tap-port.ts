import {
  FixedMemory,
  TAP_EMPTY,
  TAP_GONE,
  Tap,
  TapOffload,
  TapQueue,
  VnetHeader,
} from "@hyperv-is/platform-node";
import type { TapUplink } from "../network-config.js";
import { Frame, OneRun } from "../switch/frame.js";
import { privateMemory, type FrameMemory } from "../switch/frame-memory.js";
import { FRAME_MAX_BYTES } from "../switch/held-frame.js";
import type { Port } from "../switch/port.js";
import type { PortEnd, PortOffloads } from "../switch/switch-port.js";
import { readVirtioNetHeader, writeVirtioNetHeader } from "../switch/virtio-net-header.js";
import type { VirtualSwitch } from "../switch/virtual-switch.js";

/** Frames that are taken at once, before others get their turn. */
const BATCH_FRAMES = 32;

const INPUT_BYTES = (FRAME_MAX_BYTES + 7) & ~7;

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
  readonly #input = privateMemory(INPUT_BYTES);
  /** Where a frame is gathered that lies in too many pieces. */
  #gathered: FrameMemory | undefined;
  /** Where the memories are that frames come from: few, and they stay. */
  readonly #fixed = new WeakMap<FrameMemory, FixedMemory>();
  readonly #received: Uint8Array;
  readonly #sent: Uint8Array;
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
    this.#received = bytesOf(this.#queue.receivedHeader);
    this.#sent = bytesOf(this.#queue.sendHeader);
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
      const lengthBytes = this.#queue.receive(0, INPUT_BYTES);
      if (lengthBytes === TAP_EMPTY) break;
      if (lengthBytes === TAP_GONE) {
        this.#isGone = true;
        this.port.setLink(false);
        break;
      }
      this.#send(lengthBytes);
    }
    if (frames > 0) this.#owner.flush();
    return frames > 0;
  }

  deliver(frame: Frame): boolean {
    const queue = this.#queue;
    writeVirtioNetHeader(frame, this.#sent, 0);
    queue.beginFrame();
    if (!this.#addPieces(frame)) {
      this.#gathered ??= privateMemory(INPUT_BYTES);
      queue.beginFrame();
      queue.addPiece(this.#fixedOf(this.#gathered), 0, frame.copyTo(this.#gathered, 0));
    }
    return queue.sendFrame();
  }

  flush(): void {
    // Each frame is with the kernel already.
  }

  linkChanged(isUp: boolean): void {
    if (!this.#isGone) this.#tap.setCarrier(isUp);
  }

  /** Takes the port off its switch. The TAP is gone if it was made here. */
  close(): void {
    this.port.close();
    this.#tap.close();
  }

  #send(lengthBytes: number): void {
    const frame = this.#frame;
    this.#run.set(0, lengthBytes);
    frame.load(this.#input, this.#run, 0, lengthBytes);
    if (readVirtioNetHeader(frame, this.#received, 0)) this.port.send(frame);
    else this.unreadable++;
  }

  /** @returns False if they are too many. */
  #addPieces(frame: Frame): boolean {
    const queue = this.#queue;
    const { head, headBytes, memory, runs, bodyBytes } = frame;
    if (!queue.addPiece(this.#fixedOf(head), 0, headBytes)) return false;
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
      if (!queue.addPiece(body, runs.runAddress(run) + skip, pieceBytes)) return false;
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

/** The bytes of a header, whose size is that without a count of buffers. */
function bytesOf(header: DataView): Uint8Array {
  return new Uint8Array(header.buffer, header.byteOffset, VnetHeader.SIZE);
}
