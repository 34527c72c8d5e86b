import { Channel, type ChannelHandler, type Signal } from "../channel.js";
import { ChannelDispatcher } from "../channel-dispatcher.js";
import { GuestMemory } from "../guest-memory.js";
import { PAGE_SIZE } from "../protocol/index.js";
import { IncomingRing } from "../ring/incoming-ring.js";
import { OutgoingRing } from "../ring/outgoing-ring.js";
import { RingArea } from "../ring/ring-area.js";
import { ringControl, type RingControlFactory } from "../ring/ring-control.js";

/** The two ends, and the memory between them. */
export interface ConnectOptions {
  /** What handles the packets that arrive at each end. */
  readonly left: ChannelHandler;
  readonly right: ChannelHandler;
  /** Pages of each ring, control page included; 17 unless told, which is 64 KiB of data. */
  readonly ringPages?: number;
  /** Memory to take the rings from; a buffer of its own unless told. */
  readonly memory?: GuestMemory;
  /** Where the rings begin in it; 0 unless told. */
  readonly address?: number;
  /** Control words of each end. */
  readonly leftControl?: RingControlFactory;
  readonly rightControl?: RingControlFactory;
}

/** Two ends of one open channel. */
export interface ConnectedChannels {
  readonly memory: GuestMemory;
  readonly left: Channel;
  readonly right: Channel;
  /** Delivers signals and polls both ends until both sleep; throws after `maxRounds`, so that a livelock fails instead of hanging. */
  run(maxRounds?: number): void;
}

/**
 * A connected pair of channels in one thread, without a host: real rings, real signal rules. A signal
 * schedules the other end, and `run` polls it.
 */
export function connectedChannels(options: ConnectOptions): ConnectedChannels {
  const pages = options.ringPages ?? 17;
  const address = options.address ?? 0;
  const memory = options.memory ?? new GuestMemory(new ArrayBuffer(2 * pages * PAGE_SIZE));
  const toRight = RingArea.at(memory, address, pages);
  const toLeft = RingArea.at(memory, address + pages * PAGE_SIZE, pages);
  memory.clear(address, 2 * pages * PAGE_SIZE);
  const leftControl = options.leftControl ?? ringControl;
  const rightControl = options.rightControl ?? ringControl;
  const dispatcher = new ChannelDispatcher();

  class Wake implements Signal {
    peer: Channel | undefined;
    signal(): void {
      if (this.peer === undefined) return;
      this.peer.interrupt();
      dispatcher.schedule(this.peer);
    }
  }
  const wakeRight = new Wake();
  const wakeLeft = new Wake();
  const left = new Channel(
    new IncomingRing(toLeft, leftControl),
    new OutgoingRing(toRight, leftControl),
    wakeRight,
    options.left,
  );
  const right = new Channel(
    new IncomingRing(toRight, rightControl),
    new OutgoingRing(toLeft, rightControl),
    wakeLeft,
    options.right,
  );
  wakeRight.peer = right;
  wakeLeft.peer = left;
  dispatcher.schedule(left);
  dispatcher.schedule(right);

  return {
    memory,
    left,
    right,
    run(maxRounds = 100_000): void {
      for (let round = 0; dispatcher.run(); round++)
        if (round >= maxRounds) throw new Error(`no rest after ${maxRounds} rounds`);
    },
  };
}
