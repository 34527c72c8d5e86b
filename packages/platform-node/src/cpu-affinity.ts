import { PlatformError } from "./errors.js";
import { libc, type LibC } from "./libc.js";

/** Bytes of a set of CPUs, one bit each, CPU 0 lowest: as many as Linux knows at most. */
const CPU_SET_BYTES = 8192 / 8;
/** Of the system calls: the thread that calls. */
const THIS_THREAD = 0;

/** Where a thread runs. */
export interface ThreadPin {
  /** The only CPU that it may use. */
  readonly cpu: number;
  /** Whether a thread that it works with is pinned there, too. It does not spin then: that one could not run meanwhile. */
  readonly isShared: boolean;
}

/**
 * Where threads that work with each other are to run.
 *
 * @param cpus - The CPU of each thread, by its name.
 * @throws PlatformError `ERR_AFFINITY` for a CPU that this thread may not use, `ERR_AFFINITY_UNSUPPORTED` where there is
 * no such thing, `ERR_KOFFI_MISSING`.
 */
export function placeThreads(
  cpus: Readonly<Record<string, number>>,
): ReadonlyMap<string, ThreadPin> {
  const entries = Object.entries(cpus);
  if (entries.length === 0) return new Map();
  const allowed = allowedCpus();
  for (const [name, cpu] of entries)
    if (!allowed.includes(cpu))
      throw new PlatformError(
        "ERR_AFFINITY",
        `${name} cannot be pinned to CPU ${cpu}: this program may use ${allowed.join(", ")}, as 'taskset -cp ${process.pid}' says`,
      );
  const isShared = (name: string, cpu: number): boolean =>
    entries.some(([other, otherCpu]) => other !== name && otherCpu === cpu);
  return new Map(entries.map(([name, cpu]) => [name, { cpu, isShared: isShared(name, cpu) }]));
}

/**
 * The CPUs that the calling thread may use, lowest first.
 * @throws PlatformError as `placeThreads`
 */
export function allowedCpus(): readonly number[] {
  const set = new Uint8Array(CPU_SET_BYTES);
  const system = libcOfLinux();
  if (system.schedGetAffinity(THIS_THREAD, set.byteLength, set) < 0)
    throw refused(system, "cannot be asked for");
  return Array.from({ length: set.byteLength * 8 }, (_, cpu) => cpu).filter(
    (cpu) => (set[cpu >> 3]! & (1 << (cpu & 7))) !== 0,
  );
}

/**
 * Keeps the calling thread on one CPU, and those that it starts from now on.
 * @throws PlatformError as `placeThreads`
 */
export function pinThread(cpu: number): void {
  const set = new Uint8Array(CPU_SET_BYTES);
  set[cpu >> 3] = 1 << (cpu & 7);
  const system = libcOfLinux();
  if (system.schedSetAffinity(THIS_THREAD, set.byteLength, set) < 0)
    throw refused(system, `cannot be ${cpu}`);
}

function libcOfLinux(): LibC {
  if (process.platform !== "linux")
    throw new PlatformError(
      "ERR_AFFINITY_UNSUPPORTED",
      "threads can be pinned to CPUs on Linux only: leave that out",
    );
  return libc("pinned threads");
}

function refused(system: LibC, what: string): PlatformError {
  return new PlatformError(
    "ERR_AFFINITY",
    `the CPU of a thread ${what} (${system.errorName(system.errno())})`,
  );
}
