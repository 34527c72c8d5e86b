import type { HostThreads } from "@hyperv-is/guest-kernel";
import { PlatformError, allowedCpus } from "@hyperv-is/platform-node";

/** Who serves the host's devices while a machine is measured that others use, with what that adds to names of results. */
export const hostThreadsMeasured: readonly (readonly [HostThreads, string])[] = [
  // On one or two CPUs the boot processor does, otherwise the same as below.
  ["auto", ""],
  ["own", ", threads of the host's own"],
];

/** Where the threads of a machine run while it is measured. */
export interface Placement {
  /** For the names of results. */
  readonly suffix: string;
  /** The CPU of each thread; none where the system decides. */
  readonly pin: Readonly<Record<string, number>>;
}

/**
 * Threads where the system likes, and the boot processor and the host's worker of disks on the last CPU together. Only the
 * first where threads cannot be pinned, which is said.
 */
export function placements(progress: (text: string) => void): readonly Placement[] {
  const free = { suffix: "", pin: {} };
  try {
    const cpu = allowedCpus().at(-1)!;
    return [free, { suffix: ", vCPU and disks on one CPU", pin: { vcpu0: cpu, disks: cpu } }];
  } catch (error) {
    if (!(error instanceof PlatformError)) throw error;
    progress(`left out what takes pinned threads: ${error.message}`);
    return [free];
  }
}
