import {
  formatIpAddress,
  isIpv4,
  maskPrefix,
  parseIpAddress,
  prefixMask,
  type IpAddress,
} from "./ip-address.js";

/** An address of an interface. */
export interface IpNetwork {
  readonly address: IpAddress;
  /** 0 to 32, or to 128. */
  readonly prefixBits: number;
}

/** The addresses of one network adapter: what the host sets, and what the guest says of itself. */
export interface IpSettings {
  /** IPv4 addresses come by DHCP. */
  readonly dhcp: boolean;
  readonly addresses: readonly IpNetwork[];
  readonly gateways: readonly IpAddress[];
  readonly dnsServers: readonly IpAddress[];
}

/** The same as text, for JSON. */
export interface PlainIpSettings {
  readonly dhcp: boolean;
  /** `192.0.2.10/24`. */
  readonly addresses: readonly string[];
  readonly gateways: readonly string[];
  readonly dnsServers: readonly string[];
}

/** Settings as text. */
export function formatIpSettings(settings: IpSettings): PlainIpSettings {
  const { dhcp, addresses, gateways, dnsServers } = settings;
  return {
    dhcp,
    addresses: addresses.map(
      ({ address, prefixBits }) => `${formatIpAddress(address)}/${prefixBits}`,
    ),
    gateways: gateways.map(formatIpAddress),
    dnsServers: dnsServers.map(formatIpAddress),
  };
}

/** Settings from text; undefined if any of it is no address. */
export function parseIpSettings(plain: {
  readonly dhcp: boolean;
  readonly addresses: readonly unknown[];
  readonly gateways: readonly unknown[];
  readonly dnsServers: readonly unknown[];
}): IpSettings | undefined {
  const addresses = parseTexts(plain.addresses, parseNetwork);
  const gateways = parseTexts(plain.gateways, parseIpAddress);
  const dnsServers = parseTexts(plain.dnsServers, parseIpAddress);
  const isWhole =
    addresses.length === plain.addresses.length &&
    gateways.length === plain.gateways.length &&
    dnsServers.length === plain.dnsServers.length;
  return isWhole ? { dhcp: plain.dhcp, addresses, gateways, dnsServers } : undefined;
}

/** Those of a list that are texts and parse. */
function parseTexts<T>(list: readonly unknown[], parse: (text: string) => T | undefined): T[] {
  return list.flatMap((text) => {
    const item = typeof text === "string" ? parse(text) : undefined;
    return item === undefined ? [] : [item];
  });
}

/** `192.0.2.10/24`; undefined for anything else. */
function parseNetwork(text: string): IpNetwork | undefined {
  const [, before = "", digits = ""] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? [];
  const address = parseIpAddress(before);
  const prefixBits = Number(digits);
  if (address === undefined || prefixBits > address.byteLength * 8) return undefined;
  return { address, prefixBits };
}

/** Bits of the field that says which kinds of addresses there are. */
export const AddressFamily = { none: 0, ipv4: 1, ipv6: 2 } as const;

/** `AddressFamily` bits of an adapter's addresses, gateways and DNS servers. */
export function addressFamilies({ addresses, gateways, dnsServers }: IpSettings): number {
  const all = [...addresses.map(({ address }) => address), ...gateways, ...dnsServers];
  return (
    (all.some(isIpv4) ? AddressFamily.ipv4 : 0) |
    (all.every(isIpv4) ? AddressFamily.none : AddressFamily.ipv6)
  );
}

/** The four lists as messages in text form have them: items with `;` between them. */
export interface IpTexts {
  readonly addresses: string;
  readonly subnets: string;
  readonly gateways: string;
  readonly dnsServers: string;
}

/**
 * Parses the lists of a message. Items may have spaces around them, and a list a `;` at its end; the mask or
 * prefix of each address has its place. What does not parse whole is refused, for these texts end up in
 * configuration files.
 */
export function parseIpTexts(texts: IpTexts, dhcp: boolean): IpSettings | undefined {
  const addresses = parseItems(texts.addresses, parseIpAddress);
  const subnets = items(texts.subnets);
  const gateways = parseItems(texts.gateways, parseIpAddress);
  const dnsServers = parseItems(texts.dnsServers, parseIpAddress);
  if (addresses === undefined || gateways === undefined || dnsServers === undefined)
    return undefined;
  if (subnets.length !== addresses.length) return undefined;
  const networks: IpNetwork[] = [];
  for (const [index, address] of addresses.entries()) {
    const prefixBits = parsePrefix(subnets[index]!, address);
    if (prefixBits === undefined) return undefined;
    networks.push({ address, prefixBits });
  }
  return { dhcp, addresses: networks, gateways, dnsServers };
}

/** The lists of a message, IPv4 first. */
export function formatIpTexts(settings: IpSettings): IpTexts {
  const networks = ipv4First(settings.addresses, ({ address }) => address);
  const list = (addresses: readonly IpAddress[]): string =>
    ipv4First(addresses, (address) => address)
      .map(formatIpAddress)
      .join(";");
  return {
    addresses: list(networks.map(({ address }) => address)),
    subnets: networks
      .map(({ address, prefixBits }) =>
        isIpv4(address) ? formatIpAddress(prefixMask(prefixBits)) : `/${prefixBits}`,
      )
      .join(";"),
    gateways: list(settings.gateways),
    dnsServers: list(settings.dnsServers),
  };
}

/** A list with what is IPv4 in front. */
export function ipv4First<T>(list: readonly T[], addressOf: (item: T) => IpAddress): T[] {
  return [
    ...list.filter((item) => isIpv4(addressOf(item))),
    ...list.filter((item) => !isIpv4(addressOf(item))),
  ];
}

/** A dotted mask without holes; for IPv6 the length of a prefix, with or without a slash. */
function parsePrefix(text: string, address: IpAddress): number | undefined {
  if (isIpv4(address)) {
    const mask = parseIpAddress(text);
    return mask !== undefined && isIpv4(mask) ? maskPrefix(mask) : undefined;
  }
  const digits = /^\/?(\d{1,3})$/.exec(text)?.[1];
  const prefixBits = Number(digits);
  return prefixBits <= 128 ? prefixBits : undefined;
}

function items(list: string): string[] {
  const parts = list.split(";").map((part) => part.replace(/^ +| +$/g, ""));
  if (parts.at(-1) === "") parts.pop();
  return parts;
}

function parseItems<T>(list: string, parse: (text: string) => T | undefined): T[] | undefined {
  const parsed: T[] = [];
  for (const text of items(list)) {
    const item = parse(text);
    if (item === undefined) return undefined;
    parsed.push(item);
  }
  return parsed;
}
