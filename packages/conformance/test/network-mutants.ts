import {
  SendResult,
  type Channel,
  type ChannelHandler,
  type QueueContext,
} from "@hyperv-is/vmbus-core";
import { NvspStatus, NvspType } from "@hyperv-is/hv-netvsc/protocol";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import type { HostChannelHandler, HostService } from "@hyperv-is/hyperv-host";

/** What one end of the network's channels does wrong above the rings, once. The campaign must catch each. */
export const networkMutants = [
  /** The guest tells the host twice that it is done with a packet. */
  "receive-completed-twice",
  /** The guest never tells it. */
  "receive-never-completed",
  /** The guest tells it on another channel. */
  "receive-completed-elsewhere",
  /** The guest tells it while its user still has the frames. */
  "receive-completed-early",
  /** The guest loses a completion of the host, and with it a section of the send buffer, or a page list. */
  "send-completion-lost",
  /** The host completes a send on another channel. */
  "send-completed-elsewhere",
  /** The host forgets a send: neither its frames arrive, nor does its completion. */
  "send-forgotten",
] as const;
export type NetworkMutant = (typeof networkMutants)[number];

const COMPLETION_BYTES = 24;

/** Puts a mutant into the ends of channels, between the driver or the provider and its rings. */
export class NetworkSaboteur {
  readonly #mutant: NetworkMutant;
  readonly #nth: number;
  #occasions = 0;
  /** Ends of channels that were ever opened. */
  readonly guestEnds: Channel[] = [];
  readonly hostEnds: Channel[] = [];

  /** @param nth - Of all occasions, the one on which it happens. */
  constructor(mutant: NetworkMutant, nth: number) {
    this.#mutant = mutant;
    this.#nth = nth;
  }

  /** What a queue half of the driver is made with. */
  context(context: QueueContext): QueueContext {
    const { memory, allocator, timers } = context;
    return {
      memory,
      allocator,
      timers,
      bindChannel: (description, handler) => {
        const end = new GuestEnd(handler, this);
        return end.bind(context.bindChannel(description, end));
      },
      unbindChannel: (description, reason) => context.unbindChannel(description, reason),
    };
  }

  /** What serves the channels of an adapter on the host. */
  service(service: HostService): HostService {
    return {
      open: (opening, context) => {
        const handler = service.open(opening, context);
        return typeof handler === "number" ? handler : new HostEnd(handler, this);
      },
    };
  }

  /** True if the mutant is planted here, and now. */
  strikes(mutant: NetworkMutant): boolean {
    return mutant === this.#mutant && ++this.#occasions === this.#nth;
  }

  /** The same of a mutant that is at work from its first occasion on. */
  rages(mutant: NetworkMutant): boolean {
    return mutant === this.#mutant && ++this.#occasions >= this.#nth;
  }
}

/** What becomes of a packet that is begun: it goes its way, is lost, or is put into another channel's ring. */
type Fate = "own" | "lost" | Channel;

/** A channel whose packets may go astray. */
function astray(
  channel: Channel,
  fateOf: (type: number, packetBytes: number, idLow: number, idHigh: number) => Fate,
): Channel {
  let taker = channel;
  const begin: Channel["begin"] = (type, flags, headerBytes, packetBytes, idLow, idHigh) => {
    const fate = fateOf(type, packetBytes, idLow, idHigh);
    if (fate === "lost") return SendResult.Corrupt;
    taker = fate === "own" ? channel : fate;
    return taker.begin(type, flags, headerBytes, packetBytes, idLow, idHigh);
  };
  const flush = (): void => {
    if (taker !== channel) taker.flush();
    channel.flush();
  };
  return new Proxy(channel, {
    get(target, key) {
      if (key === "begin") return begin;
      if (key === "flush") return flush;
      if (key === "outgoing") return taker.outgoing;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/** The newest of these ends that is open, but for one. */
function otherThan(channel: Channel, ends: readonly Channel[]): Channel | undefined {
  return ends.findLast((end) => end !== channel && !end.isClosed());
}

/** A completion with status success, besides those of the end itself. @returns False if there is no room. */
function complete(channel: Channel, idLow: number, idHigh: number): boolean {
  const { completion } = PacketType;
  const result = channel.begin(completion, 0, 16, COMPLETION_BYTES, idLow, idHigh);
  if (result !== SendResult.Ready) return false;
  const { outgoing } = channel;
  outgoing.putU32(NvspType.sendRndisPacketComplete);
  outgoing.putU32(NvspStatus.success);
  outgoing.end();
  return true;
}

/** The driver's end of a channel. */
class GuestEnd implements ChannelHandler {
  readonly #handler: ChannelHandler;
  readonly #saboteur: NetworkSaboteur;
  /** Ids of packets that are completed already. */
  readonly #early = new Set<number>();

  constructor(handler: ChannelHandler, saboteur: NetworkSaboteur) {
    this.#handler = handler;
    this.#saboteur = saboteur;
  }

  bind(channel: Channel): Channel {
    const saboteur = this.#saboteur;
    saboteur.guestEnds.push(channel);
    return astray(channel, (type, packetBytes, idLow, idHigh) => {
      if (type !== PacketType.completion || packetBytes !== COMPLETION_BYTES) return "own";
      if (this.#early.delete(idLow)) return "lost";
      if (saboteur.strikes("receive-completed-twice")) complete(channel, idLow, idHigh);
      if (saboteur.strikes("receive-never-completed")) return "lost";
      const other = otherThan(channel, saboteur.guestEnds);
      if (other === undefined || !saboteur.strikes("receive-completed-elsewhere")) return "own";
      return other;
    });
  }

  packet(channel: Channel): void {
    const { type, idLow, idHigh, completionRequested } = channel.incoming;
    const isSend = type === PacketType.completion && idLow > 0 && idLow < 0x1_0000;
    if (isSend && this.#saboteur.strikes("send-completion-lost")) return;
    if (
      type === PacketType.transferPages &&
      completionRequested &&
      this.#saboteur.rages("receive-completed-early") &&
      complete(channel, idLow, idHigh)
    )
      this.#early.add(idLow);
    this.#handler.packet(channel);
  }

  batchEnd(channel: Channel): void {
    this.#handler.batchEnd(channel);
  }

  spaceArrived(channel: Channel): void {
    this.#handler.spaceArrived(channel);
  }

  closed(channel: Channel, reason: Parameters<ChannelHandler["closed"]>[1]): void {
    this.#handler.closed(channel, reason);
  }
}

/** The provider's end of a channel. */
class HostEnd implements HostChannelHandler {
  readonly #handler: HostChannelHandler;
  readonly #saboteur: NetworkSaboteur;

  constructor(handler: HostChannelHandler, saboteur: NetworkSaboteur) {
    this.#handler = handler;
    this.#saboteur = saboteur;
  }

  opened(channel: Channel): void {
    const saboteur = this.#saboteur;
    saboteur.hostEnds.push(channel);
    this.#handler.opened(
      astray(channel, (type) => {
        const other = otherThan(channel, saboteur.hostEnds);
        if (type !== PacketType.completion || other === undefined) return "own";
        return saboteur.strikes("send-completed-elsewhere") ? other : "own";
      }),
    );
  }

  packet(channel: Channel): void {
    const isSend = channel.incoming.type === PacketType.gpaDirect;
    if (isSend && this.#saboteur.strikes("send-forgotten")) return;
    this.#handler.packet(channel);
  }

  batchEnd(channel: Channel): void {
    this.#handler.batchEnd(channel);
  }

  spaceArrived(channel: Channel): void {
    this.#handler.spaceArrived(channel);
  }

  closed(channel: Channel, reason: Parameters<ChannelHandler["closed"]>[1]): void {
    this.#handler.closed(channel, reason);
  }

  release(done: () => void): void {
    this.#handler.release(done);
  }

  guestReleased(): void {
    this.#handler.guestReleased?.();
  }

  gpadlTeardown(gpadlId: number, done: () => void): void {
    if (this.#handler.gpadlTeardown === undefined) done();
    else this.#handler.gpadlTeardown(gpadlId, done);
  }
}
