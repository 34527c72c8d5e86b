import { networkInterfaces } from "node:os";
import { parseIpAddress, type IpNetwork } from "../protocol/index.js";

/** The addresses of an interface of this system, without those of the link alone. */
export function interfaceNetworks(name: string): IpNetwork[] {
  return (networkInterfaces()[name] ?? []).flatMap(({ address, cidr, family, scopeid }) => {
    const parsed = parseIpAddress(address.replace(/%.*$/, ""));
    const prefixBits = Number(cidr?.split("/")[1]);
    const isLinkLocal = family === "IPv6" && scopeid !== 0;
    return parsed === undefined || isLinkLocal || Number.isNaN(prefixBits)
      ? []
      : [{ address: parsed, prefixBits }];
  });
}

/** The interface of this system with a MAC address (`00:15:5D:01:02:03`), as far as it has addresses. */
export function interfaceByMac(mac: string): string | undefined {
  const lower = mac.toLowerCase();
  return Object.entries(networkInterfaces()).find(([, addresses]) =>
    addresses?.some((one) => !one.internal && one.mac === lower),
  )?.[0];
}
