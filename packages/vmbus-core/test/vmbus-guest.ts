import {
  SendResult,
  Vmbus,
  type Channel,
  type ChannelClosedReason,
  type ChannelDescription,
  type ChannelHandler,
  type OfferedChannel,
  type VmbusOptions,
} from "@hyperv-is/vmbus-core";
import { PACKET_FLAG_COMPLETION_REQUESTED, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { startCpu, type TestCpu } from "./fake-hypervisor.js";
import { VmbusHost, type VmbusHostOptions } from "./vmbus-host.js";

export const RINGS = { outgoingPages: 3, incomingPages: 2, cpu: 0 };

/** A driver's queue that sends packets and counts what is completed. */
export class Queue implements ChannelHandler {
  readonly completed: number[] = [];
  reason: ChannelClosedReason | undefined;
  packet(channel: Channel): void {
    this.completed.push(channel.incoming.idLow);
  }
  batchEnd(): void {
    // Sends nothing by itself.
  }
  spaceArrived(): void {
    // Never waits.
  }
  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.reason = reason;
  }
}

/** Sends a request that wants a completion. */
export function send(channel: Channel, id: number): void {
  const result = channel.begin(PacketType.inBand, PACKET_FLAG_COMPLETION_REQUESTED, 16, 16, id, 0);
  if (result !== SendResult.Ready) throw new Error("does not fit");
  channel.outgoing.end();
  channel.flush();
}

/** A guest and its host. */
export interface Guest {
  readonly machine: TestCpu;
  readonly host: VmbusHost;
  readonly bus: Vmbus;
}

export function guest(host: VmbusHostOptions, options: Partial<VmbusOptions> = {}): Guest {
  const machine = startCpu({ pages: 256 });
  const { cpu, hypervisor } = machine;
  return {
    machine,
    host: new VmbusHost(machine, host),
    bus: new Vmbus({ cpu, hypervisor, ...options }),
  };
}

/** Waits for `promise` while guest and host run. Time stands still. */
export async function during<T>({ host }: Guest, promise: Promise<T>): Promise<T> {
  const settled = promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  await host.settle();
  const outcome = await Promise.race([settled, Promise.resolve(undefined)]);
  if (outcome === undefined) throw new Error("still waits when nothing moves any more");
  if ("error" in outcome) throw outcome.error;
  return outcome.value;
}

/** A guest that is connected and knows its devices. */
export async function connect(
  host: VmbusHostOptions,
  options: Partial<VmbusOptions> = {},
): Promise<Guest> {
  const made = guest(host, options);
  await during(made, made.bus.connect());
  await during(made, made.bus.requestOffers());
  return made;
}

/** Shares rings, binds the channel, opens it. */
export async function open(
  made: Guest,
  device: OfferedChannel,
): Promise<{ description: ChannelDescription; queue: Queue; channel: Channel }> {
  const description = await during(made, device.prepareChannel(RINGS));
  const queue = new Queue();
  const channel = made.machine.cpu.bindChannel(description, queue);
  await during(made, device.openChannel(description));
  return { description, queue, channel };
}
