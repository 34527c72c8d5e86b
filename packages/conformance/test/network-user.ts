import {
  ChecksumVerdict,
  type EthernetUser,
  type NetvscQueue,
  type ReceivedFrame,
} from "@hyperv-is/hv-netvsc";
import type { Prng } from "@hyperv-is/conformance";
import { isTcp, readFrame, type FoundFrame } from "./network-frames.js";
import type { AdapterPair } from "./network-machine.js";

/** What a user of a port tells. */
export interface NetworkUserEvents {
  /** A frame came, whole. @param tag - 802.1Q tag beside it. */
  arrived(adapter: AdapterPair, frame: FoundFrame, tag: number): void;
  /** A frame came with a wrong byte, or a wrong checksum that the host did not tell of. */
  spoiled(what: string): void;
  transmitted(tag: number, released: boolean): void;
  wrong(error: unknown): void;
}

interface HeldFrame {
  readonly ticket: number;
  readonly runs: readonly (readonly [address: number, bytes: Uint8Array])[];
}

/** Uses one port: checks each frame that comes, and keeps some of them for a while. */
export class NetworkUser implements EthernetUser {
  readonly adapter: AdapterPair;
  readonly port: NetvscQueue;
  /** Sections that were free before anything was sent; undefined until then. */
  sections: number | undefined;
  frames = 0;
  readonly #prng: Prng;
  readonly #holdOneIn: number;
  readonly #holdMost: number;
  readonly #events: NetworkUserEvents;
  readonly #held: HeldFrame[] = [];
  #isClosed = false;

  /** @param holdOneIn - One in so many frames is released later; 0: none. @param holdMost - Frames to hold at once. */
  constructor(
    adapter: AdapterPair,
    port: NetvscQueue,
    prng: Prng,
    plan: { readonly holdOneIn: number; readonly holdMost: number },
    events: NetworkUserEvents,
  ) {
    this.adapter = adapter;
    this.port = port;
    this.#prng = prng;
    this.#holdOneIn = plan.holdOneIn;
    this.#holdMost = plan.holdMost;
    this.#events = events;
  }

  received(frame: ReceivedFrame): void {
    this.frames++;
    const runs = Array.from({ length: frame.runs }, (_, run) => {
      const address = frame.runAddress(run);
      return [address, this.port.memory.copyOut(address, frame.runLength(run))] as const;
    });
    this.#judge(frame, joined(runs.map(([, bytes]) => bytes)));
    if (this.#holdOneIn > 0 && this.#prng.chance(1, this.#holdOneIn)) {
      this.#held.push({ ticket: frame.ticket, runs });
      if (this.#held.length > this.#holdMost) this.#release(this.#prng.below(this.#held.length));
    } else this.port.release(frame.ticket);
  }

  /** Gives some of the held frames back, or all of them. */
  releaseSome(all: boolean): void {
    if (this.#isClosed) return;
    for (let index = this.#held.length - 1; index >= 0; index--)
      if (all || this.#prng.chance(1, 2)) this.#release(index);
    this.port.flush();
  }

  get held(): number {
    return this.#held.length;
  }

  transmitted(tag: number, released: boolean): void {
    this.#events.transmitted(tag, released);
  }

  batchEnd(): void {
    if (this.#isClosed) this.#events.wrong(new Error("a batch ended on a closed port"));
  }

  transmitReady(): void {
    // Programs try again by themselves.
  }

  closed(): void {
    if (this.#isClosed) this.#events.wrong(new Error("a port closed twice"));
    this.#isClosed = true;
    this.#held.length = 0;
  }

  #judge(frame: ReceivedFrame, bytes: Uint8Array): void {
    const found = readFrame(bytes);
    if (this.#isClosed) this.#events.wrong(new Error("a frame came through a closed port"));
    if (found === undefined) {
      this.#events.spoiled(`${bytes.length} bytes are no frame that was sent`);
      return;
    }
    const { verdict } = frame;
    if (!found.isChecksumRight && (verdict & ChecksumVerdict.dataMissing) === 0)
      this.#events.spoiled(
        `flow ${found.flow}: the checksum at ${found.position} is wrong, verdict ${verdict}`,
      );
    if (isTcp(found.kind) && frame.runs > 1 && (verdict & ChecksumVerdict.dataValid) === 0)
      this.#events.spoiled(`flow ${found.flow}: coalesced, and not vouched for`);
    this.#events.arrived(this.adapter, found, frame.vlanTag);
  }

  /** The host must have left a held frame alone. */
  #release(index: number): void {
    const [{ ticket, runs }] = this.#held.splice(index, 1) as [HeldFrame];
    const { memory } = this.port;
    for (const [address, bytes] of runs)
      for (let at = 0; at < bytes.length; at++)
        if (memory.bytes[address + at] !== bytes[at]) {
          this.#events.wrong(new Error("a frame has changed while its user had it"));
          return;
        }
    this.port.release(ticket);
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
