import type { HypervisorPort } from "@hyperv-is/vmbus-core";
import { CpuidLeaf } from "@hyperv-is/vmbus-core/protocol";

/** Names of the feature bits of leaf 0x40000003 EAX, from bit 0, as FreeBSD prints them. */
const featureNames = [
  "VPRUNTIME",
  "TMREFCNT",
  "SYNIC",
  "SYNTM",
  "APIC",
  "HYPERCALL",
  "VPINDEX",
  "RESET",
  "STATS",
  "REFTSC",
  "IDLE",
  "TMFREQ",
  "DEBUG",
];

/** The vendor text of the hypervisor: `Microsoft Hv`. */
export function hypervisorVendor(hypervisor: HypervisorPort): string {
  const { ebx, ecx, edx } = hypervisor.cpuid(CpuidLeaf.maximum);
  const bytes = new Uint8Array(Uint32Array.of(ebx, ecx, edx).buffer);
  return new TextDecoder("latin1").decode(bytes).replace(/\0+$/, "");
}

/** What FreeBSD prints of the hypervisor at boot. */
export function hypervisorLines(hypervisor: HypervisorPort): string[] {
  const { eax: build, ebx: version, ecx: servicePack } = hypervisor.cpuid(CpuidLeaf.version);
  const { eax: features } = hypervisor.cpuid(CpuidLeaf.features);
  const names = featureNames.filter((_, bit) => (features & (1 << bit)) !== 0);
  return [
    `Hyper-V Version: ${version >>> 16}.${version & 0xffff}.${build} [SP${servicePack}]`,
    `  Features=0x${(features >>> 0).toString(16)}<${names.join(",")}>`,
    `Hypervisor: Origin = "${hypervisorVendor(hypervisor)}"`,
  ];
}
