import {
  Channel,
  ChannelDispatcher,
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  RingArea,
  SendResult,
  type ChannelHandler,
  type EventFlags,
} from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  PAGE_SIZE,
  PacketType,
} from "@hyperv-is/vmbus-core/protocol";
import { ChannelPeerHandler } from "./channel-peers.js";
import { InterleavedEventFlags } from "./interleaving.js";
import { LateClearedEventFlags, MutantRingControl, type RingMutant } from "./mutants.js";
import { Simulation, SimulationError, type Actor } from "./simulation.js";

/** Which schedule to run, of what. */
export interface ChannelSimulationOptions {
  readonly seed: number;
  /** Requests that the left end sends; each must be completed once, with its payload. */
  readonly requests?: number;
  /** A fault to put into both ends. */
  readonly mutant?: RingMutant;
}

/** What one schedule did; equal for equal options. */
export interface ChannelSimulationResult {
  readonly steps: number;
  readonly fullRings: number;
  readonly signals: number;
}

const FLAG = 1;
const REQUEST_BYTES = [24, 64, 264, 1016] as const;

/** One CPU: takes its event flag, polls its channel, and sleeps. */
class Cpu implements Actor {
  readonly name: string;
  readonly dispatcher: ChannelDispatcher;
  readonly #flags: EventFlags;

  constructor(name: string, flags: EventFlags, budget: number) {
    this.name = name;
    this.#flags = flags;
    this.dispatcher = new ChannelDispatcher(budget);
  }

  step(): boolean {
    this.dispatcher.interrupt(this.#flags);
    const more = this.dispatcher.run();
    if (this.#flags instanceof LateClearedEventFlags) this.#flags.clearLate();
    return more;
  }
}

/** Sends a burst of requests for every batch of completions and every bit of room, and checks the completions. */
class Requester implements ChannelHandler {
  readonly completed = new Set<number>();
  readonly #simulation: Simulation;
  readonly #requests: number;
  #sent = 0;
  #waiting = false;

  constructor(simulation: Simulation, requests: number) {
    this.#simulation = simulation;
    this.#requests = requests;
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    const id = incoming.idLow;
    if (this.completed.has(id) || id < 1 || id > this.#sent)
      throw new SimulationError(
        this.#simulation.seed,
        `request ${id} completed twice or never sent`,
      );
    for (let at = 0; at < incoming.payloadBytes; at += 4)
      if (incoming.u32(incoming.headerBytes + at) !== id + at)
        throw new SimulationError(this.#simulation.seed, `payload of request ${id} changed`);
    this.completed.add(id);
  }

  batchEnd(channel: Channel): void {
    this.#send(channel);
  }

  spaceArrived(channel: Channel): void {
    this.#waiting = false;
    this.#send(channel);
  }

  closed(): void {
    throw new SimulationError(this.#simulation.seed, "the channel closed");
  }

  #send(channel: Channel): void {
    // At least one request is on its way until all are sent, so that silence means a lost wake-up.
    let burst = 1 + this.#simulation.prng.below(8);
    while (!this.#waiting && this.#sent < this.#requests && burst-- > 0) {
      const id = this.#sent + 1;
      const payload = REQUEST_BYTES[id % REQUEST_BYTES.length]! - 16;
      const flags = PACKET_FLAG_COMPLETION_REQUESTED;
      const result = channel.begin(PacketType.inBand, flags, 16, 16 + payload, id, 0);
      if (result === SendResult.Ready) {
        this.#sent = id;
        for (let at = 0; at < payload; at += 4) channel.outgoing.putU32(id + at);
        channel.outgoing.end();
      } else if (!channel.waitForSpace(16 + payload)) this.#waiting = true;
    }
    channel.flush();
  }
}

/** Completes every request with the payload that came. */
class Completer extends ChannelPeerHandler {
  readonly #seed: number;

  constructor(memory: GuestMemory, seed: number) {
    super("echo", memory);
    this.#seed = seed;
  }

  override closed(): void {
    throw new SimulationError(this.#seed, "the channel closed");
  }
}

/**
 * Runs one schedule of two channel ends over one-page rings. Throws a `SimulationError` that names the
 * seed when a completion is lost, doubled or changed, and when everything sleeps before all is done.
 */
export function simulateChannel(options: ChannelSimulationOptions): ChannelSimulationResult {
  const { mutant, requests = 40 } = options;
  const simulation = new Simulation(options.seed);
  const memory = new GuestMemory(new ArrayBuffer(5 * PAGE_SIZE));
  const flagWords = new Int32Array(2);
  const flags = (first: number): EventFlags =>
    mutant === "event-flag-cleared-late"
      ? new LateClearedEventFlags(simulation, flagWords, first, 1)
      : new InterleavedEventFlags(simulation, flagWords, first, 1);
  const budget = 1 + simulation.prng.below(16);

  const leftFlags = flags(0);
  const rightFlags = flags(1);
  const left = new Cpu("left", leftFlags, budget);
  const right = new Cpu("right", rightFlags, budget);
  const control = (at: GuestMemory, address: number): MutantRingControl =>
    new MutantRingControl(mutant, simulation, at, address);
  const bell = (peerFlags: EventFlags, peer: Cpu) => ({
    signal(): void {
      if (peerFlags.set(FLAG)) simulation.wake(peer);
    },
  });
  const toRight = RingArea.at(memory, 0, 2);
  const toLeft = RingArea.at(memory, 2 * PAGE_SIZE, 2);
  const requester = new Requester(simulation, requests);
  const leftChannel = new Channel(
    new IncomingRing(toLeft, control),
    new OutgoingRing(toRight, control),
    bell(rightFlags, right),
    requester,
  );
  const rightChannel = new Channel(
    new IncomingRing(toRight, control),
    new OutgoingRing(toLeft, control),
    bell(leftFlags, left),
    new Completer(memory, options.seed),
  );
  left.dispatcher.bind(FLAG, leftChannel);
  right.dispatcher.bind(FLAG, rightChannel);

  simulation.wake(left);
  simulation.wake(right);
  simulation.run(20_000);
  const done = requester.completed.size;
  if (done < requests)
    throw new SimulationError(
      options.seed,
      `everything sleeps with ${done} of ${requests} requests completed: a wake-up was lost`,
    );
  const counters = [leftChannel.counters, rightChannel.counters];
  return {
    steps: simulation.steps,
    fullRings: counters.reduce((sum, { outgoingFull }) => sum + outgoingFull, 0),
    signals: counters.reduce((sum, one) => sum + one.signalsSent + one.spaceSignalsSent, 0),
  };
}
