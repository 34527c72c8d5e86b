import { availableParallelism } from "node:os";
import { hostThreads } from "@hyperv-is/hyperv-host/node";
import { placeThreads, type ThreadPin } from "@hyperv-is/platform-node";
import { BootError } from "./boot-error.js";
import { UsageMistake } from "./usage-mistake.js";

/** The CPU of the host's system for each thread that is to have one, by its name: `vcpu0`, ..., `disks`, `network`. */
export type ThreadCpus = Readonly<Record<string, number>>;

/**
 * Which threads serve the host's devices: their own, or that of the boot processor. `auto` is the latter on a system of few
 * CPUs whose other programs use the guest.
 */
export const hostThreadsChoices = ["auto", "own", "vcpu0"] as const;
export type HostThreads = (typeof hostThreadsChoices)[number];

/** On so few CPUs the thread of a client has none, or has to wait, while two threads of a machine pass its request on. */
const FEW_CPUS = 2;

/** Understands `--host-threads`. Throws `UsageMistake`. */
export function parseHostThreads(text: string): HostThreads {
  const choice = hostThreadsChoices.find((name) => name === text);
  if (choice === undefined)
    throw new UsageMistake(`--host-threads ${text}: write ${hostThreadsChoices.join(", ")}`);
  return choice;
}

/** Name of a virtual processor's thread. */
export function vcpuThread(cpu: number): string {
  return `vcpu${cpu}`;
}

/** Understands `--pin`. Throws `UsageMistake`. */
export function parsePins(texts: readonly string[]): ThreadCpus {
  const cpus = new Map<string, number>();
  for (const text of texts)
    for (const pin of text.split(",")) {
      const [, thread, cpu] = /^([^=]+)=(\d{1,4})$/.exec(pin) ?? [];
      if (thread === undefined || cpu === undefined)
        throw new UsageMistake(`--pin ${text}: write it as THREAD=CPU[,THREAD=CPU...]`);
      if (cpus.has(thread)) throw new UsageMistake(`--pin ${text}: ${thread} is pinned twice`);
      cpus.set(thread, Number(cpu));
    }
  return Object.fromEntries(cpus);
}

/**
 * Whether the boot processor serves the host's devices.
 *
 * @param isServing - Others use the guest: clients of its disks, programs at a TAP.
 */
export function lendsThread(
  choice: HostThreads,
  pin: ThreadCpus,
  isServing: boolean,
  systemCpus = availableParallelism(),
): boolean {
  if (choice !== "auto") return choice === "vcpu0";
  const hasPlace = Object.values(hostThreads).some((name) => name in pin);
  return isServing && !hasPlace && systemCpus <= FEW_CPUS;
}

/**
 * Where the threads of a machine run. Throws `ERR_PIN` for a thread that it does not have, and as `placeThreads`.
 *
 * @param cpus - Virtual processors of the machine.
 * @param isLent - The host's devices have no threads of their own.
 */
export function pinsOf(
  pin: ThreadCpus,
  cpus: number,
  hasNetwork: boolean,
  isLent: boolean,
): ReadonlyMap<string, ThreadPin> {
  const { disks, network } = hostThreads;
  const vcpus = Array.from({ length: cpus }, (_, cpu) => vcpuThread(cpu));
  const threads = isLent ? vcpus : [...vcpus, disks, ...(hasNetwork ? [network] : [])];
  for (const name of Object.keys(pin))
    if (!threads.includes(name))
      throw new BootError(
        "ERR_PIN",
        `there is no thread ${name} to be pinned: this machine has ${threads.join(", ")}` +
          (name === network && !isLent ? ", and network with an adapter or a switch" : ""),
      );
  return placeThreads(pin);
}
