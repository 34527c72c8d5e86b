/**
 * How many sub-channels a guest asks for.
 *
 * - `one-per-cpu`: as many as give each CPU a channel, the primary's included: what FreeBSD since 11 and Linux do;
 * - `freebsd-10.2`: one for each CPU, beside the primary channel: what FreeBSD 10.2 did until the middle of 2016.
 */
export type SubChannelRule = "one-per-cpu" | "freebsd-10.2";

/** What a guest has to say about the number of its channels. */
export interface SubChannelWishes {
  readonly rule: SubChannelRule;
  /** CPUs that queues can live on. */
  readonly cpus: number;
  /** Channels at most, the primary's included, as FreeBSD's `hw.storvsc.chan_cnt`; 0: no limit. */
  readonly channelLimit: number;
}

/** Sub-channels to ask for, of a host that allows `hostMax`. 0: nothing is to be asked. */
export function wantedSubChannels(
  { rule, cpus, channelLimit }: SubChannelWishes,
  hostMax: number,
): number {
  const useful = rule === "freebsd-10.2" ? cpus : cpus - 1;
  const allowed = channelLimit === 0 ? hostMax : Math.min(hostMax, channelLimit - 1);
  return Math.min(allowed, useful);
}
