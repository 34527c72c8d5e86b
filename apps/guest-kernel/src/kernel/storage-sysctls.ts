import type { StorvscChannel, StorvscController } from "@hyperv-is/hv-storvsc";
import type { SysctlLeaf, SysctlTree } from "./sysctl.js";

/** What of a channel's inspection is shown. */
interface ChannelState {
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

/** Counters of FreeBSD's driver, over all channels. */
const totals = [
  ["data_bio_cnt", "# of bio data block"],
  ["data_vaddr_cnt", "# of vaddr data block"],
  ["data_sg_cnt", "# of sg data block"],
  ["bounced", "# of transfers that were copied, for want of a range that describes them"],
] as const;

/** Adds what there is to know about an attached controller, below `prefix`: names of FreeBSD, and some more. */
export function addStorageSysctls(
  sysctl: SysctlTree,
  prefix: string,
  controller: StorvscController,
): void {
  const states = (): Promise<ChannelState[]> => Promise.all(controller.channels.map(stateOf));
  const sum = async (count: (state: ChannelState) => number): Promise<number> =>
    (await states()).reduce((total, state) => total + count(state), 0);
  for (const [name, description] of totals)
    sysctl.show(`${prefix}.${name}`, description, () => sum(({ counters }) => counters[name] ?? 0));
  const perThousand = async (count: (state: ChannelState) => number): Promise<string> => {
    const requests = await sum(({ counters }) => counters["send_req"] ?? 0);
    return requests === 0 ? "0.0" : (((await sum(count)) / requests) * 1_000).toFixed(1);
  };
  sysctl.show(`${prefix}.interrupts_per_1k`, "interrupts per 1,000 requests", () =>
    perThousand(({ channel }) => channel["interrupts"] ?? 0),
  );
  sysctl.show(`${prefix}.signals_per_1k`, "signals to the host per 1,000 requests", () =>
    perThousand(
      ({ channel }) => (channel["signalsSent"] ?? 0) + (channel["spaceSignalsSent"] ?? 0),
    ),
  );
  sysctl.mount(`${prefix}.channel`, () => {
    const [primary] = controller.channels;
    if (primary === undefined) return [];
    const root = `${prefix}.channel.${primary.relid}`;
    return controller.channels.flatMap((channel) => channelLeaves(root, channel));
  });
}

/** The leaves of one channel: a sub-channel is below the primary's id, by its index. */
function channelLeaves(root: string, channel: StorvscChannel): SysctlLeaf[] {
  const { subChannelIndex, signal } = channel.description.channel;
  const at = subChannelIndex === 0 ? root : `${root}.sub.${subChannelIndex}`;
  let asked: Promise<ChannelState> | undefined;
  // One question for all leaves of one look.
  const state = (): Promise<ChannelState> => (asked ??= stateOf(channel));
  const leaf = (
    name: string,
    description: string,
    read: () => string | number | Promise<string | number>,
  ): SysctlLeaf => [`${at}.${name}`, { description, read }];
  const ring = (direction: "rx" | "tx") => async (): Promise<string> =>
    ringText((await state()).rings[direction]);
  const counter =
    (kind: "counters" | "channel", ...names: readonly string[]) =>
    async (): Promise<number> => {
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
    leaf("send_req", "# of request sending from this channel", counter("counters", "send_req")),
    leaf("interrupts", "# of interrupts", counter("channel", "interrupts")),
    leaf(
      "signals",
      "# of signals to the host",
      counter("channel", "signalsSent", "spaceSignalsSent"),
    ),
    leaf("ring_full", "# of requests that waited for the ring", counter("counters", "ring_full")),
    leaf("bounced", "# of transfers that were copied", counter("counters", "bounced")),
  ];
}

async function stateOf(channel: StorvscChannel): Promise<ChannelState> {
  return (await channel.inspect()) as unknown as ChannelState;
}

/** As FreeBSD prints it. */
function ringText(ring: RingState): string {
  const { readIndex, writeIndex, interruptMask, readAvailable, writeAvailable } = ring;
  return `rindex:${readIndex} windex:${writeIndex} imask:${interruptMask} ravail:${readAvailable} wavail:${writeAvailable}`;
}
