import { NT_TO_UNIX_100NS } from "@hyperv-is/hv-utils/protocol";

/** The clock of this machine, in 100 ns units since 1601, UTC. */
export function realTime(): bigint {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e4)) + NT_TO_UNIX_100NS;
}
