import { hostThreads } from "@hyperv-is/hyperv-host/node";
import { placeThreads, type ThreadPin } from "@hyperv-is/platform-node";
import { BootError } from "./boot-error.js";
import { UsageMistake } from "./usage-mistake.js";

/** The CPU of the host's system for each thread that is to have one, by its name: `vcpu0`, ..., `disks`, `network`. */
export type ThreadCpus = Readonly<Record<string, number>>;

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
 * Where the threads of a machine run. Throws `ERR_PIN` for a thread that it does not have, and as `placeThreads`.
 *
 * @param cpus - Virtual processors of the machine.
 */
export function pinsOf(
  pin: ThreadCpus,
  cpus: number,
  hasNetwork: boolean,
): ReadonlyMap<string, ThreadPin> {
  const { disks, network } = hostThreads;
  const vcpus = Array.from({ length: cpus }, (_, cpu) => vcpuThread(cpu));
  const threads = [...vcpus, disks, ...(hasNetwork ? [network] : [])];
  for (const name of Object.keys(pin))
    if (!threads.includes(name))
      throw new BootError(
        "ERR_PIN",
        `there is no thread ${name} to be pinned: this machine has ${threads.join(", ")}` +
          (name === network ? ", and network with an adapter or a switch" : ""),
      );
  return placeThreads(pin);
}
