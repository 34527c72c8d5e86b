import {
  formatIpAddress,
  isIpv4,
  KvpLimit,
  type IpAddress,
  type KvpItem,
} from "./protocol/index.js";

/** What the guest says of itself. */
export interface GuestFacts {
  /** The host's canonical name, or its plain one where no resolver knows it. */
  readonly fullyQualifiedDomainName: string;
  /** Of the integration services: the kernel's interface, or the package that serves. */
  readonly integrationServicesVersion: string;
  /** Of all interfaces but the loopback. */
  readonly addresses: readonly IpAddress[];
  /** `FreeBSD`, `Debian GNU/Linux`. */
  readonly osName: string;
  /** Of the distribution: `14.1`, `12`. Empty if it has none. */
  readonly osVersion: string;
  /** Of the kernel, whole: `14.1-RELEASE-p3`, `6.1.0-18-amd64`. */
  readonly kernelRelease: string;
  /** `amd64`, `x86_64`. */
  readonly machine: string;
}

/** Where the facts come from. */
export interface GuestFactsSource {
  /** Asked at the start of each enumeration. */
  read(): Promise<GuestFacts>;
}

/** The items of pool 2, in the order that hosts know. Addresses are separated by `;`, without one at the end. */
export function autoItems(facts: GuestFacts, isLinux: boolean): KvpItem[] {
  const kernelVersion = facts.kernelRelease.replace(/-.*$/s, "");
  const [major = "", minor = ""] = facts.osVersion.split(".");
  const values = {
    FullyQualifiedDomainName: facts.fullyQualifiedDomainName,
    IntegrationServicesVersion: facts.integrationServicesVersion,
    NetworkAddressIPv4: addressList(facts.addresses.filter(isIpv4)),
    NetworkAddressIPv6: addressList(facts.addresses.filter((address) => !isIpv4(address))),
    OSBuildNumber: isLinux ? facts.kernelRelease : kernelVersion,
    OSName: facts.osName,
    OSMajorVersion: major,
    OSMinorVersion: minor,
    OSVersion: kernelVersion,
    ProcessorArchitecture: facts.machine,
  };
  return Object.entries(values).map(([key, value]) => ({ key, value }));
}

/** As many addresses as fit an answer, whole ones. */
function addressList(addresses: readonly IpAddress[]): string {
  let list = "";
  for (const address of addresses) {
    const longer = `${list}${list === "" ? "" : ";"}${formatIpAddress(address)}`;
    if (longer.length > KvpLimit.answerValueUnits) break;
    list = longer;
  }
  return list;
}
