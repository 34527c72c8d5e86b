/**
 * How many sub-channels a host lets a SCSI controller have, by the number of the guest's processors:
 *
 * - a number: so many;
 * - `one-per-cpu`: as many as make one channel for each processor, the primary's included;
 * - `one-per-4-cpus`: one for each four processors above the first;
 * - `above-5-cpus`: the same, but none up to five processors, as Hyper-V is said to do for FreeBSD 10.2.
 *
 * What Hyper-V does is not documented; the ratio of four is the one that Linux's driver plans with.
 */
export type SubChannelPolicy = number | "one-per-cpu" | "one-per-4-cpus" | "above-5-cpus";

/** The policies that have a name. */
export const subChannelPolicies = ["one-per-cpu", "one-per-4-cpus", "above-5-cpus"] as const;

/** OpenVMM's limit. */
export const SUB_CHANNELS_MAX = 1023;

/** Sub-channels of each controller. */
export function subChannelsFor(policy: SubChannelPolicy, processors: number): number {
  const quarter = Math.floor((processors - 1) / 4);
  switch (policy) {
    case "one-per-cpu":
      return processors - 1;
    case "one-per-4-cpus":
      return quarter;
    case "above-5-cpus":
      return processors > 5 ? quarter : 0;
    default:
      if (!Number.isInteger(policy) || policy < 0 || policy > SUB_CHANNELS_MAX)
        throw new RangeError(`a controller has 0 to ${SUB_CHANNELS_MAX} sub-channels`);
      return policy;
  }
}
