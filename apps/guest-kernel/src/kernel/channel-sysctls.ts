import type { ChannelDescription } from "@hyperv-is/vmbus-core";
import type { SysctlLeaf, SysctlNode } from "./sysctl.js";

/** What of a channel's inspection is shown. */
export interface ChannelState {
  readonly cpu: number;
  readonly counters: Readonly<Record<string, number>>;
  readonly channel: Readonly<Record<string, number>>;
  readonly rings: Readonly<Record<"rx" | "tx", RingState>>;
}

interface RingState {
  readonly readIndex: number;
  readonly writeIndex: number;
  readonly interruptMask: number;
  readonly readAvailable: number;
  readonly writeAvailable: number;
}

/** An open channel of a driver. */
export interface ShownChannel {
  readonly relid: number;
  readonly cpu: number;
  readonly description: { readonly channel: ChannelDescription };
  /** A `ChannelState`, among others. Rejects when the CPU is gone. */
  inspect(): Promise<unknown>;
}

/** Counters of a driver's channel: the name of the leaf, its description, what is added up, and of what. */
export type CounterLeaf = readonly [
  name: string,
  description: string,
  kind: "counters" | "channel",
  ...counters: readonly string[],
];

export async function channelState(channel: ShownChannel): Promise<ChannelState> {
  return (await channel.inspect()) as ChannelState;
}

/**
 * The leaves of a device's channels: a sub-channel is below the primary's id, by its index.
 *
 * @param channels - The primary first. @param counters - What the driver shows besides.
 */
export function channelLeaves(
  prefix: string,
  channels: readonly ShownChannel[],
  counters: readonly CounterLeaf[],
): SysctlLeaf[] {
  const [primary] = channels;
  if (primary === undefined) return [];
  const root = `${prefix}.channel.${primary.relid}`;
  return channels.flatMap((channel) => leavesOf(root, channel, counters));
}

function leavesOf(
  root: string,
  channel: ShownChannel,
  counters: readonly CounterLeaf[],
): SysctlLeaf[] {
  const { subChannelIndex, signal } = channel.description.channel;
  const at = subChannelIndex === 0 ? root : `${root}.sub.${subChannelIndex}`;
  let asked: Promise<ChannelState> | undefined;
  // One question for all leaves of one look.
  const state = (): Promise<ChannelState> => (asked ??= channelState(channel));
  const leaf = (name: string, description: string, read: SysctlNode["read"]): SysctlLeaf => [
    `${at}.${name}`,
    { description, read },
  ];
  const ring = (direction: "rx" | "tx") => async (): Promise<string> =>
    ringText((await state()).rings[direction]);
  const sum = (kind: "counters" | "channel", names: readonly string[]) => async () => {
    const counts = (await state())[kind];
    return names.reduce((total, name) => total + (counts[name] ?? 0), 0);
  };
  return [
    ...(subChannelIndex === 0 ? [] : [leaf("chanid", "channel id", () => channel.relid)]),
    leaf("cpu", "owner CPU id", () => channel.cpu),
    leaf("mnf", "has monitor notification facilities", () =>
      signal.monitor === undefined ? 0 : 1,
    ),
    leaf("br.rx.state", "bufring state", ring("rx")),
    leaf("br.tx.state", "bufring state", ring("tx")),
    ...counters.map(([name, description, kind, ...names]) =>
      leaf(name, description, sum(kind, names)),
    ),
  ];
}

/** As FreeBSD prints it. */
function ringText(ring: RingState): string {
  const { readIndex, writeIndex, interruptMask, readAvailable, writeAvailable } = ring;
  return `rindex:${readIndex} windex:${writeIndex} imask:${interruptMask} ravail:${readAvailable} wavail:${writeAvailable}`;
}

/** What every channel counts. */
export const channelCounters: readonly CounterLeaf[] = [
  ["interrupts", "# of interrupts", "channel", "interrupts"],
  ["signals", "# of signals to the host", "channel", "signalsSent", "spaceSignalsSent"],
];
