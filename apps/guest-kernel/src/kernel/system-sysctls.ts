import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type { KernelOptions } from "./kernel.js";
import type { Device } from "./device-tree.js";
import type { GuestSystem } from "./guest-system.js";
import { hypervisorVendor } from "./hypervisor-identity.js";
import type { SysctlTree } from "./sysctl.js";
import {
  parseTunable,
  tunableKeys,
  tunables,
  type Tunable,
  type TunableValues,
} from "./tunables.js";

type SystemParts = Pick<KernelOptions, "identity" | "cpus" | "cpu" | "hypervisor">;

/**
 * Adds `kern`, `hw` and the loader's tunables.
 *
 * @param values - The tunables as they are now; those that are writable are written here.
 */
export function addSystemSysctls(
  sysctl: SysctlTree,
  system: Pick<GuestSystem, "disks">,
  { identity, cpus, cpu, hypervisor }: SystemParts,
  values: Record<keyof TunableValues, number>,
): void {
  sysctl.show("kern.ostype", "Operating system type", () => identity.type);
  sysctl.show("kern.osrelease", "Operating system release", () => identity.release);
  sysctl.show("kern.version", "Kernel version", () => identity.version);
  sysctl.show("kern.hostname", "Hostname", () => identity.hostName);
  sysctl.show("kern.vm_guest", "Virtual machine guest detected?", () => "hv");
  sysctl.show("kern.disks", "names of available disks", () =>
    system.disks.map(({ name }) => name).join(" "),
  );
  sysctl.show("hw.machine", "Machine class", () => identity.machine);
  sysctl.show("hw.ncpu", "Number of active CPUs", () => cpus.count);
  sysctl.show("kern.smp.cpus", "Number of CPUs online", () => cpus.online.length);
  sysctl.show("hw.pagesize", "System memory page size", () => PAGE_SIZE);
  sysctl.show("hw.physmem", "Amount of physical memory (in bytes)", () => cpu.memory.sizeBytes);
  sysctl.show("hw.hv_vendor", "Hypervisor vendor", () => hypervisorVendor(hypervisor));
  for (const key of tunableKeys) {
    const tunable: Tunable = tunables[key];
    const { name, description, isWritable = false } = tunable;
    const read = (): number => values[key];
    const write = (text: string): void => {
      values[key] = parseTunable(tunable, text);
    };
    if (key !== "signalOptimization")
      sysctl.add(name, { description, read, ...(isWritable && { write }) });
  }
  const { signalOptimization } = tunables;
  sysctl.add(signalOptimization.name, {
    description: signalOptimization.description,
    read: () => (cpu.signalOptimization ? 1 : 0),
    write: async (text) => {
      const wanted = parseTunable(signalOptimization, text) === 1;
      cpu.signalOptimization = wanted;
      await cpus.optimizeSignals(wanted);
    },
  });
}

/** Adds what there is of every device. */
export function addDeviceSysctls(sysctl: SysctlTree, device: Device): void {
  const prefix = sysctlPrefix(device);
  const show = (name: string, description: string, value: string): void =>
    sysctl.show(`${prefix}.${name}`, description, () => value);
  show("%desc", "device description", device.description);
  show("%driver", "device driver name", device.driver ?? "");
  show("%location", "device location relative to parent", "");
  show("%pnpinfo", "device identification", device.pnpInfo);
  show("%parent", "parent device", device.parent?.name ?? "");
}

/** `dev.storvsc.0`. */
export function sysctlPrefix({ driver, unit }: Device): string {
  return `dev.${String(driver)}.${unit}`;
}
