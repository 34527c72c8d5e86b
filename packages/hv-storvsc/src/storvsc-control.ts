import { versionHas } from "@hyperv-is/vmbus-core/protocol";
import {
  Negotiation,
  type NegotiationInput,
  type NegotiationOptions,
  type StorvscParameters,
} from "./negotiation.js";
import { StorageClassId } from "./protocol/index.js";
import type { StorvscQueueHalf } from "./queue-half.js";
import { StorvscChannel, type ChannelOptions } from "./storvsc-channel.js";
import { StorvscController, type BusLayout } from "./storvsc-controller.js";
import type { StorvscContext } from "./storvsc-context.js";
import type { StorvscQueue } from "./storvsc-queue.js";
import {
  wantedSubChannels,
  type SubChannelRule,
  type SubChannelWishes,
} from "./sub-channel-rule.js";

/** What can be chosen about a controller; FreeBSD's tunables `hw.storvsc.*` are among it. */
export interface StorvscOptions extends NegotiationOptions {
  /** Pages of each ring, control page included; 64 unless told (`ringbuffer_size` of FreeBSD). */
  readonly ringPages?: number;
  /** Requests in flight per channel; 512 unless told (`max_io`). */
  readonly slots?: number;
  /** Buffers for transfers that have to be copied, at most, per channel; 16 unless told. */
  readonly bounceBuffers?: number;
  /** Shortest CDB for READ and WRITE: 6, 10 (unless told), 12 or 16. */
  readonly minimumCdbBytes?: 6 | 10 | 12 | 16;
  /** Targets to scan; 2 unless told, as in FreeBSD. */
  readonly targets?: number;
  /** LUNs of a target to scan; 64 unless told, as many as Hyper-V's controllers have. */
  readonly luns?: number;
  /** How long `detach` waits for requests in flight; 60,000 unless told. */
  readonly drainTimeoutMs?: number;
  /** How often disks are asked whether they have news; never unless told. */
  readonly pollIntervalMs?: number;
  /** How many sub-channels to ask for, beside what the host allows; `one-per-cpu` unless told. */
  readonly subChannelRule?: SubChannelRule;
  /** Channels at most, the primary's included (`chan_cnt`); 0, unless told, for no limit. */
  readonly channelLimit?: number;
  /** How long to wait for sub-channels that the host has promised; 2,000 unless told. Later ones are used all the same. */
  readonly subChannelTimeoutMs?: number;
}

/** The boot processor: the primary channel is bound to it, so that the control half can call its queue. */
const BOOT_CPU = 0;

/**
 * Attaches a controller, on the boot processor: opens its channel, agrees on a version, finds the disks, and
 * has sub-channels opened on the other CPUs.
 *
 * Rejects with `StorvscError` (or what the bus rejects with) when any step fails; the channel is closed then.
 */
export async function attachStorvsc(
  context: StorvscContext,
  options: StorvscOptions = {},
): Promise<StorvscController> {
  const { device } = context;
  const only = device.classId === StorageClassId.ide ? ideAddress(device.instanceId) : undefined;
  const channelOptions: ChannelOptions = {
    ringPages: options.ringPages ?? 64,
    slots: options.slots ?? 512,
    bounceBuffers: options.bounceBuffers ?? 16,
    minimumCdbBytes: options.minimumCdbBytes ?? 10,
    pathId: only?.pathId ?? 0,
  };
  const layout: BusLayout = { targets: options.targets ?? 2, luns: options.luns ?? 64, only };
  const primary = await StorvscChannel.open(context, device, BOOT_CPU, channelOptions);
  let controller: StorvscController | undefined;
  try {
    const { queue } = localHalf(primary);
    const parameters = await negotiate(context, queue, options);
    queue.configure(parameters);
    const wishes: SubChannelWishes = {
      rule: options.subChannelRule ?? "one-per-cpu",
      cpus: context.cpus.length,
      channelLimit: options.channelLimit ?? 0,
    };
    // A bus that has no sub-channels offers none, whatever the controller says.
    const offered = versionHas(device.busVersion, "subChannels");
    const subChannelsMax = offered ? parameters.subChannelCountMax : 0;
    controller = new StorvscController(context, primary, queue, parameters, {
      layout,
      drainTimeoutMs: options.drainTimeoutMs ?? 60_000,
      pollIntervalMs: options.pollIntervalMs ?? 0,
      subChannels: {
        wanted: wantedSubChannels(wishes, subChannelsMax),
        timeoutMs: options.subChannelTimeoutMs ?? 2_000,
        channel: channelOptions,
      },
    });
    await controller.start();
    return controller;
  } catch (error) {
    await (controller?.detach() ?? primary.close());
    throw error;
  }
}

/** The queue half of the primary channel, which is on this CPU. */
function localHalf({ handle }: StorvscChannel): StorvscQueueHalf {
  if (handle.local === undefined) throw new Error("the primary channel is on another CPU");
  return handle.local;
}

/** Carries the effects of a negotiation out: one packet at a time, and one timer. */
function negotiate(
  context: StorvscContext,
  queue: StorvscQueue,
  options: NegotiationOptions,
): Promise<StorvscParameters> {
  const { device, timers } = context;
  const machine = new Negotiation(options);
  return new Promise((resolve, reject) => {
    let timer = timers.after(0, () => undefined);
    const closed = (): NegotiationInput =>
      queue.closedReason === "rescinded" ? { kind: "rescinded" } : { kind: "closed" };
    const feed = (input: NegotiationInput): void => {
      const effect = machine.step(input, timers.now());
      if (effect?.kind === "ready") resolve(effect.parameters);
      if (effect?.kind === "failed") reject(effect.error);
      if (effect?.kind === "send") {
        const sent = queue.sendControl(effect.packet, (packet) => feed({ kind: "reply", packet }));
        if (!sent) {
          feed(closed());
          return;
        }
      }
      timer.cancel();
      if (machine.deadline !== Infinity)
        timer = timers.after(machine.deadline - timers.now(), () => feed({ kind: "tick" }));
    };
    queue.events = { busChanged: () => undefined, closed: () => feed(closed()) };
    void device.rescinded.then(() => feed({ kind: "rescinded" }));
    feed({ kind: "opened" });
  });
}

/** Path and target of a disk of the IDE controller: the first two numbers of its instance id. */
function ideAddress(instanceId: string): { pathId: number; target: number; lun: number } {
  const [channel = "0", device = "0"] = instanceId.split("-");
  return { pathId: parseInt(channel, 16) & 0xff, target: parseInt(device, 16) & 0xff, lun: 0 };
}
