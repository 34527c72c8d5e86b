import {
  formatIpAddress,
  ipv4First,
  isIpv4,
  maskPrefix,
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

/**
 * `rc.conf` with an interface's addresses and the routers in it; what it says of anything else stays. A default router on a
 * network that the interface had goes with it, also where the host names no other.
 */
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
  for (const router of parseRcConf(text, name)?.gateways ?? [])
    replaced.add(isIpv4(router) ? "defaultrouter" : "ipv6_defaultrouter");
  const kept = linesOf(text).filter(
    (line) => !own.test(line) && !replaced.has(/^\s*(\w+)=/.exec(line)?.[1] ?? ""),
  );
  return [...kept, ...lines.map(([variable, value]) => `${variable}="${value}"`), ""].join("\n");
}

/** True if `rc.conf` has an interface ask for its address. */
export function rcConfHasDhcp(text: string, name: string): boolean {
  return asksForAddress(rcVariables(text).get(`ifconfig_${name}`) ?? "");
}

/**
 * What `rc.conf` makes of an interface at boot, but name servers, which are not there; undefined if it says nothing of
 * it. As rc does, aliases are counted from 0 up to the first that is missing. The default router belongs to the interface
 * that has a network with it. An IPv4 address without a mask is left out.
 */
export function parseRcConf(text: string, name: string): IpSettings | undefined {
  const variables = rcVariables(text);
  const main = variables.get(`ifconfig_${name}`);
  const values = [main, variables.get(`ifconfig_${name}_ipv6`)];
  for (let alias = 0; variables.has(`ifconfig_${name}_alias${alias}`); alias++)
    values.push(variables.get(`ifconfig_${name}_alias${alias}`));
  const said = values.filter((value) => value !== undefined);
  if (said.length === 0) return undefined;
  const addresses = ipv4First(said.flatMap(parseIfconfigText), ({ address }) => address);
  const routers = ["defaultrouter", "ipv6_defaultrouter"].flatMap((variable) =>
    addressOrNone(variables.get(variable)),
  );
  return {
    dhcp: asksForAddress(main ?? ""),
    addresses,
    gateways: routers.filter((router) => addresses.some((network) => isOn(network, router))),
    dnsServers: [],
  };
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

/** The variables that a file of assignments sets, each as it is set last. */
function rcVariables(text: string): Map<string, string> {
  const assignment = /^\s*([A-Za-z_][\w.-]*)=(?:"([^"]*)"|'([^']*)'|([^\s"'#;]*))/;
  return new Map(
    linesOf(text).flatMap((line): [string, string][] => {
      const [, name, double, single, bare] = assignment.exec(line) ?? [];
      return name === undefined ? [] : [[name, double ?? single ?? bare ?? ""]];
    }),
  );
}

/** True for `DHCP`, `SYNCDHCP` and `NOSYNCDHCP` among the words for `ifconfig`. */
function asksForAddress(value: string): boolean {
  return value.split(/\s+/).some((word) => /^(?:SYNC|NOSYNC)?DHCP$/i.test(word));
}

/** The address among the words for `ifconfig`: `inet 192.0.2.10 netmask 255.255.255.0`, or with `/24`. */
function parseIfconfigText(value: string): IpNetwork[] {
  const [, family, text = "", slashed, keyword, length = ""] =
    /(?:^|\s)(inet6?)\s+([^\s/]+)(?:\/(\d{1,3}))?(?:\s+(netmask|prefixlen)\s+(\S+))?/.exec(value) ??
    [];
  const address = parseIpAddress(text);
  if (address === undefined || isIpv4(address) !== (family === "inet")) return [];
  const mask = keyword === "netmask" ? parseIpAddress(length) : undefined;
  const prefixBits =
    mask !== undefined && isIpv4(mask)
      ? maskPrefix(mask)
      : Number(slashed ?? (keyword === "prefixlen" ? length : isIpv4(address) ? NaN : 64));
  return prefixBits !== undefined && prefixBits <= address.byteLength * 8
    ? [{ address, prefixBits }]
    : [];
}

/** True if a network has an address. */
function isOn({ address, prefixBits }: IpNetwork, other: IpAddress): boolean {
  if (address.byteLength !== other.byteLength) return false;
  return address.every((byte, index) => {
    const bits = Math.min(8, Math.max(0, prefixBits - 8 * index));
    return (byte ^ other[index]!) >> (8 - bits) === 0;
  });
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
