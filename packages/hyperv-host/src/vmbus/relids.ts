import {
  MONITOR_COUNT,
  VMBUS_SINT,
  eventConnectionId,
  maximumRelid,
} from "@hyperv-is/vmbus-core/protocol";
import type { ServerChannel } from "./channel.js";
import type { ConnectionInfo } from "./connection.js";
import type { Outbox } from "./effects.js";

/**
 * What the guest knows channels by, and signals them by: relids, connection ids, monitor ids. Each is the
 * lowest that is free, so that a guest that comes back finds its devices where they were.
 */
export class Relids {
  readonly #outbox: Outbox;
  readonly #channels = new Map<number, ServerChannel>();
  readonly #relids = new NumberPool(1);
  readonly #monitors = new NumberPool(0);
  /** Connection ids that have a port. */
  readonly #connectionIds = new Set<number>();

  constructor(outbox: Outbox) {
    this.#outbox = outbox;
  }

  /** The channel that has this relid. */
  find(relid: number): ServerChannel | undefined {
    return this.#channels.get(relid);
  }

  /** True if signals on this connection mean a channel already. */
  isConnectionTaken(connectionId: number): boolean {
    return this.#connectionIds.has(connectionId);
  }

  /** Gives a channel its numbers. @returns False if the version's relids are all in use. */
  assign(channel: ServerChannel, { version, monitorPages }: ConnectionInfo): boolean {
    const relid = this.#relids.take(maximumRelid(version));
    if (relid === undefined) return false;
    channel.relid = relid;
    channel.connectionId = eventConnectionId(relid, VMBUS_SINT, 0);
    // Without a monitor the guest makes hypercalls; both work in any case.
    if (channel.offer.monitored === true && monitorPages !== undefined)
      channel.monitorId = this.#monitors.take(MONITOR_COUNT - 1);
    this.#channels.set(relid, channel);
    this.connectPorts(channel);
    return true;
  }

  /** Takes note of the numbers that a channel has kept; their ports are as they were. */
  restore(channel: ServerChannel): void {
    const { relid, connectionId, ownConnectionId, monitorId } = channel;
    if (relid === undefined) return;
    this.#relids.claim(relid);
    if (monitorId !== undefined) this.#monitors.claim(monitorId);
    this.#connectionIds.add(connectionId);
    if (ownConnectionId !== undefined) this.#connectionIds.add(ownConnectionId);
    this.#channels.set(relid, channel);
  }

  /** Takes a channel's numbers back, if it has any. */
  free(channel: ServerChannel): void {
    const { relid, monitorId } = channel;
    if (relid === undefined) return;
    this.disconnectPorts(channel);
    this.#channels.delete(relid);
    this.#relids.free(relid);
    if (monitorId !== undefined) this.#monitors.free(monitorId);
    channel.relid = undefined;
    channel.monitorId = undefined;
  }

  /** Has the guest's signals reach the channel's worker. */
  connectPorts({ connectionId, monitorId, relid, offer: { worker } }: ServerChannel): void {
    if (relid === undefined) return;
    this.#connect(connectionId, worker, relid);
    if (monitorId !== undefined)
      this.#outbox.push({ kind: "connect-monitor", monitorId, worker, flag: relid });
  }

  /** The opposite, before the channel goes to another worker or loses its numbers. */
  disconnectPorts({ connectionId, monitorId }: ServerChannel): void {
    this.#disconnect(connectionId);
    if (monitorId !== undefined) this.#outbox.push({ kind: "disconnect-monitor", monitorId });
  }

  /** The same for the connection that the guest has chosen for one opening, if it has. */
  connectOwnPort({ ownConnectionId, relid, offer: { worker } }: ServerChannel): void {
    if (ownConnectionId !== undefined && relid !== undefined)
      this.#connect(ownConnectionId, worker, relid);
  }

  disconnectOwnPort(channel: ServerChannel): void {
    if (channel.ownConnectionId !== undefined) this.#disconnect(channel.ownConnectionId);
    channel.ownConnectionId = undefined;
  }

  #connect(connectionId: number, worker: number, flag: number): void {
    this.#connectionIds.add(connectionId);
    this.#outbox.push({ kind: "connect-port", connectionId, worker, flag });
  }

  #disconnect(connectionId: number): void {
    this.#connectionIds.delete(connectionId);
    this.#outbox.push({ kind: "disconnect-port", connectionId });
  }
}

/** Numbers that are handed out lowest first. */
class NumberPool {
  readonly #first: number;
  readonly #taken = new Set<number>();

  constructor(first: number) {
    this.#first = first;
  }

  /** Takes the lowest free number; undefined if that is above `last`. */
  take(last: number): number | undefined {
    let number = this.#first;
    while (this.#taken.has(number)) number++;
    if (number > last) return undefined;
    this.#taken.add(number);
    return number;
  }

  /** Takes a number that is known. */
  claim(number: number): void {
    this.#taken.add(number);
  }

  free(number: number): void {
    this.#taken.delete(number);
  }
}
