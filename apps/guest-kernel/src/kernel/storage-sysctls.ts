import type { StorvscController } from "@hyperv-is/hv-storvsc";
import {
  channelCounters,
  channelLeaves,
  channelState,
  type ChannelState,
} from "./channel-sysctls.js";
import type { SysctlTree } from "./sysctl.js";

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
  const states = (): Promise<ChannelState[]> => Promise.all(controller.channels.map(channelState));
  const sum = async (count: (state: ChannelState) => number): Promise<number> =>
    (await states()).reduce((total, state) => total + count(state), 0);
  for (const [name, description] of totals)
    sysctl.count(`${prefix}.${name}`, description, () =>
      sum(({ counters }) => counters[name] ?? 0),
    );
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
  sysctl.mount(`${prefix}.channel`, () =>
    channelLeaves(prefix, controller.channels, [
      ["send_req", "# of request sending from this channel", "counters", "send_req"],
      ...channelCounters,
      ["ring_full", "# of requests that waited for the ring", "counters", "ring_full"],
      ["bounced", "# of transfers that were copied", "counters", "bounced"],
    ]),
  );
}
