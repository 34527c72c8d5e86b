import {
  formatIpAddress,
  isIpv4,
  parseIpAddress,
  prefixMask,
  type IpAddress,
  type IpNetwork,
  type IpSettings,
} from "./protocol/index.js";

// What FreeBSD and Linux keep about the network in text files. What is written is made from parsed addresses and
// from the name of an interface that the system has.

/** True for what both systems call interfaces, and what needs no quoting anywhere. */
export function isInterfaceName(name: string): boolean {
  return /^[A-Za-z][A-Za-z0-9_.-]{0,14}$/.test(name);
}

/** `rc.conf` with an interface's addresses and the routers in it; what it says of anything else stays. */
export function editRcConf(text: string, name: string, settings: IpSettings): string {
  const { dhcp, addresses, gateways } = settings;
  const networks4 = addresses.filter(({ address }) => isIpv4(address));
  const networks6 = addresses.filter(({ address }) => !isIpv4(address));
  const [first4, ...others4] = dhcp ? [] : networks4;
  const [first6, ...others6] = networks6;
  const lines: [string, string][] = [];
  if (dhcp) lines.push([`ifconfig_${name}`, "DHCP"]);
  else if (first4 !== undefined) lines.push([`ifconfig_${name}`, ifconfigText(first4)]);
  else lines.push([`ifconfig_${name}`, "up"]);
  if (first6 !== undefined) lines.push([`ifconfig_${name}_ipv6`, ifconfigText(first6)]);
  for (const [index, network] of [...others4, ...others6].entries())
    lines.push([`ifconfig_${name}_alias${index}`, ifconfigText(network)]);
  const router4 = gateways.find(isIpv4);
  const router6 = gateways.find((address) => !isIpv4(address));
  if (!dhcp && router4 !== undefined) lines.push(["defaultrouter", formatIpAddress(router4)]);
  if (router6 !== undefined) lines.push(["ipv6_defaultrouter", formatIpAddress(router6)]);
  const own = new RegExp(`^\\s*ifconfig_${escaped(name)}(?:_ipv6|_alias(?:es|\\d+))?=`);
  const replaced = new Set(lines.map(([variable]) => variable));
  if (dhcp) replaced.add("defaultrouter");
  const kept = linesOf(text).filter(
    (line) => !own.test(line) && !replaced.has(/^\s*(\w+)=/.exec(line)?.[1] ?? ""),
  );
  return [...kept, ...lines.map(([variable, value]) => `${variable}="${value}"`), ""].join("\n");
}

/** True if `rc.conf` has an interface ask for its address. */
export function rcConfHasDhcp(text: string, name: string): boolean {
  const pattern = new RegExp(
    `^\\s*ifconfig_${escaped(name)}=["']?[^"'#]*\\b(?:SYNC|NOSYNC)?DHCP\\b`,
    "i",
  );
  return linesOf(text).findLast((line) => pattern.test(line)) !== undefined;
}

/** As `ifconfig` and `rc.conf` have it: `inet 192.0.2.10 netmask 255.255.255.0`. */
export function ifconfigText({ address, prefixBits }: IpNetwork): string {
  const text = formatIpAddress(address);
  return isIpv4(address)
    ? `inet ${text} netmask ${formatIpAddress(prefixMask(prefixBits))}`
    : `inet6 ${text} prefixlen ${prefixBits}`;
}

/** `resolv.conf` with these name servers, and what it says besides. Without servers it stays as it is. */
export function editResolvConf(text: string, servers: readonly IpAddress[]): string {
  if (servers.length === 0) return text;
  const kept = linesOf(text).filter((line) => !/^\s*nameserver\s/.test(line));
  return [...kept, ...servers.map((server) => `nameserver ${formatIpAddress(server)}`), ""].join(
    "\n",
  );
}

/** The name servers of `resolv.conf`. */
export function parseResolvConf(text: string): IpAddress[] {
  return linesOf(text).flatMap((line) => {
    const address = /^\s*nameserver\s+([^\s%]+)/.exec(line)?.[1];
    return addressOrNone(address);
  });
}

/** The default routers by way of an interface, of what `netstat -rn` of FreeBSD prints. */
export function parseNetstatRouters(text: string, name: string): IpAddress[] {
  return linesOf(text).flatMap((line) => {
    const [destination, gateway, , device] = line.trim().split(/\s+/);
    if (destination !== "default" || device !== name) return [];
    return addressOrNone(gateway?.replace(/%.*$/, ""));
  });
}

/** The default routers by way of a device, of what `ip route show` of Linux prints. */
export function parseIpRouters(text: string): IpAddress[] {
  return linesOf(text).flatMap((line) => addressOrNone(/^default via (\S+)/.exec(line)?.[1]));
}

function addressOrNone(text: string | undefined): IpAddress[] {
  const address = text === undefined ? undefined : parseIpAddress(text);
  return address === undefined ? [] : [address];
}

function linesOf(text: string): string[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

function escaped(name: string): string {
  return name.replace(/[.-]/g, "\\$&");
}
