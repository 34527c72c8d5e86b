import { parseGuid } from "@hyperv-is/vmbus-core/protocol";
import {
  formatIpAddress,
  IPV4_BYTES,
  IPV6_BYTES,
  isIpv4,
  maskPrefix,
  prefixMask,
  type IpAddress,
} from "./ip-address.js";
import {
  addressFamilies,
  formatIpTexts,
  parseIpTexts,
  type IpNetwork,
  type IpSettings,
} from "./ip-settings.js";
import { parseUtf16Field, writeUtf16 } from "./text.js";
import { IpBinaryLayout, IpTextLayout } from "./value-layout.js";

/** How addresses are written in messages: text up to version 4.0, binary from 5.0 on. */
export type IpForm = "text" | "binary";

/** The addresses of one adapter in a message. */
export interface AdapterSettings {
  /** A MAC address to ask, an instance GUID in braces to set. */
  readonly adapterId: string;
  readonly settings: IpSettings;
}

/** Reads one of the strings of a field: undefined if it does not end or has no text. */
export type FieldReader = (field: Uint8Array) => string | undefined;
/** Writes a string into a zeroed field. */
export type FieldWriter = (field: Uint8Array, text: string) => void;

const textFields = ["addresses", "subnets", "gateways", "dnsServers"] as const;

/** Where each field of the text form ends. */
const textEnds = {
  adapterId: IpTextLayout.family,
  addresses: IpTextLayout.subnets,
  subnets: IpTextLayout.gateways,
  gateways: IpTextLayout.dnsServers,
  dnsServers: IpTextLayout.SIZE,
} as const;

const textField = (bytes: Uint8Array, name: keyof typeof textEnds): Uint8Array =>
  bytes.subarray(IpTextLayout[name], textEnds[name]);

/** The adapter that a message in text form is about; undefined if the field has no end. */
export function parseAdapterId(bytes: Uint8Array, read: FieldReader): string | undefined {
  return read(textField(bytes, "adapterId"));
}

/** Parses the text form, every item of it; undefined if any is no address. @param bytes - `IpTextLayout.SIZE` at least. */
export function parseIpText(bytes: Uint8Array, read: FieldReader): AdapterSettings | undefined {
  const adapterId = parseAdapterId(bytes, read);
  const texts = textFields.map((name) => read(textField(bytes, name)));
  const [addresses, subnets, gateways, dnsServers] = texts;
  if (
    adapterId === undefined ||
    addresses === undefined ||
    subnets === undefined ||
    gateways === undefined ||
    dnsServers === undefined
  )
    return undefined;
  const dhcp = bytes[IpTextLayout.dhcp] !== 0;
  const settings = parseIpTexts({ addresses, subnets, gateways, dnsServers }, dhcp);
  return settings && { adapterId, settings };
}

/** Writes the text form. What does not fit its field is cut, lists by whole items at their end. */
export function writeIpText(
  bytes: Uint8Array,
  { adapterId, settings }: AdapterSettings,
  write: FieldWriter,
  unitBytes: number,
): void {
  bytes.fill(0, 0, IpTextLayout.SIZE);
  bytes[IpTextLayout.family] = addressFamilies(settings);
  bytes[IpTextLayout.dhcp] = settings.dhcp ? 1 : 0;
  write(textField(bytes, "adapterId"), adapterId);
  const texts = formatIpTexts(settings);
  for (const name of textFields) {
    const field = textField(bytes, name);
    write(field, listWithin(texts[name], field.byteLength / unitBytes - 1));
  }
}

/** The same as UTF-16LE, as messages of the host have it. */
export const parseWireIpText = (bytes: Uint8Array): AdapterSettings | undefined =>
  parseIpText(bytes, parseUtf16Field);
export const writeWireIpText = (bytes: Uint8Array, adapter: AdapterSettings): void =>
  writeIpText(bytes, adapter, writeUtf16, 2);

function listWithin(list: string, maxUnits: number): string {
  if (list.length <= maxUnits) return list;
  return list.slice(0, Math.max(0, list.lastIndexOf(";", maxUnits)));
}

const layout = IpBinaryLayout;
const MAX_ADDRESSES = 64;
const MAX_GATEWAYS = 5;

/** Origins of an address: by DHCP, or set. */
const Origin = { unknown: 0, other: 1, static: 2 } as const;

/** Parses the binary form; undefined if a count exceeds its array or a mask has holes. @param bytes - `IpBinaryLayout.SIZE` at least. */
export function parseIpBinary(bytes: Uint8Array): AdapterSettings | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, layout.SIZE);
  const adapterId = parseUtf16Field(bytes.subarray(layout.adapterId, layout.family));
  if (adapterId === undefined) return undefined;
  const list = (countAt: number, at: number, width: number, most: number) => {
    const count = view.getUint32(countAt, true);
    if (count > most) return undefined;
    return Array.from({ length: count }, (_, index) =>
      bytes.slice(at + index * width, at + (index + 1) * width),
    );
  };
  const ipv4 = list(layout.ipv4Count, layout.ipv4Addresses, IPV4_BYTES, MAX_ADDRESSES);
  const ipv6 = list(layout.ipv6Count, layout.ipv6Addresses, IPV6_BYTES, MAX_ADDRESSES);
  const gateways4 = list(layout.ipv4GatewayCount, layout.ipv4Gateways, IPV4_BYTES, MAX_GATEWAYS);
  const gateways6 = list(layout.ipv6GatewayCount, layout.ipv6Gateways, IPV6_BYTES, MAX_GATEWAYS);
  const dns4 = list(layout.ipv4DnsCount, layout.ipv4DnsServers, IPV4_BYTES, MAX_ADDRESSES);
  const dns6 = list(layout.ipv6DnsCount, layout.ipv6DnsServers, IPV6_BYTES, MAX_ADDRESSES);
  if (!ipv4 || !ipv6 || !gateways4 || !gateways6 || !dns4 || !dns6) return undefined;
  const addresses: IpNetwork[] = [];
  for (const [index, address] of ipv4.entries()) {
    const at = layout.ipv4Masks + index * IPV4_BYTES;
    const prefixBits = maskPrefix(bytes.subarray(at, at + IPV4_BYTES));
    if (prefixBits === undefined) return undefined;
    addresses.push({ address, prefixBits });
  }
  for (const [index, address] of ipv6.entries()) {
    const prefixBits = view.getUint32(layout.ipv6Prefixes + 4 * index, true);
    if (prefixBits > 128) return undefined;
    addresses.push({ address, prefixBits });
  }
  return {
    adapterId,
    settings: {
      dhcp: bytes[layout.dhcp] !== 0,
      addresses,
      gateways: [...gateways4, ...gateways6],
      dnsServers: [...dns4, ...dns6],
    },
  };
}

/** Writes the binary form; what exceeds an array is left out. */
export function writeIpBinary(
  bytes: Uint8Array,
  { adapterId, settings }: AdapterSettings,
  origin: number = settings.dhcp ? Origin.other : Origin.static,
): void {
  bytes.fill(0, 0, layout.SIZE);
  const view = new DataView(bytes.buffer, bytes.byteOffset, layout.SIZE);
  writeUtf16(bytes.subarray(layout.adapterId, layout.family), adapterId);
  bytes[layout.family] = addressFamilies(settings);
  bytes[layout.dhcp] = settings.dhcp ? 1 : 0;
  const put = (countAt: number, at: number, width: number, list: readonly IpAddress[]) => {
    view.setUint32(countAt, list.length, true);
    list.forEach((address, index) => bytes.set(address, at + index * width));
  };
  const of = (
    isWanted: (address: IpAddress) => boolean,
    list: readonly IpAddress[],
    most: number,
  ) => list.filter(isWanted).slice(0, most);
  const isIpv6 = (address: IpAddress): boolean => !isIpv4(address);
  const networks4 = settings.addresses.filter(({ address }) => isIpv4(address));
  const networks6 = settings.addresses.filter(({ address }) => isIpv6(address));
  const kept4 = networks4.slice(0, MAX_ADDRESSES);
  const kept6 = networks6.slice(0, MAX_ADDRESSES);
  const addressesOf = (networks: readonly IpNetwork[]) => networks.map(({ address }) => address);
  put(layout.ipv4Count, layout.ipv4Addresses, IPV4_BYTES, addressesOf(kept4));
  put(layout.ipv6Count, layout.ipv6Addresses, IPV6_BYTES, addressesOf(kept6));
  kept4.forEach(({ prefixBits }, index) =>
    bytes.set(prefixMask(prefixBits), layout.ipv4Masks + index * IPV4_BYTES),
  );
  kept6.forEach(({ prefixBits }, index) =>
    view.setUint32(layout.ipv6Prefixes + 4 * index, prefixBits, true),
  );
  const { gateways, dnsServers } = settings;
  const { ipv4GatewayCount, ipv6GatewayCount, ipv4DnsCount, ipv6DnsCount } = layout;
  put(ipv4GatewayCount, layout.ipv4Gateways, IPV4_BYTES, of(isIpv4, gateways, MAX_GATEWAYS));
  put(ipv6GatewayCount, layout.ipv6Gateways, IPV6_BYTES, of(isIpv6, gateways, MAX_GATEWAYS));
  put(ipv4DnsCount, layout.ipv4DnsServers, IPV4_BYTES, of(isIpv4, dnsServers, MAX_ADDRESSES));
  put(ipv6DnsCount, layout.ipv6DnsServers, IPV6_BYTES, of(isIpv6, dnsServers, MAX_ADDRESSES));
  for (let index = 0; index < kept4.length + kept6.length; index++)
    view.setUint16(layout.origins + 2 * index, origin, true);
}

/** A MAC address as messages have it, `00:15:5D:01:02:03`; undefined if the text is none. */
export function parseMac(text: string): string | undefined {
  return /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i.test(text) ? text.toUpperCase() : undefined;
}

/** An adapter's instance GUID as messages have it, lower case in braces; undefined if the text is none. */
export function parseAdapterGuid(text: string): string | undefined {
  const guid = parseGuid(text);
  return guid === undefined ? undefined : `{${guid}}`;
}

/** Settings as people read them: `192.0.2.10/24, fd00::2/64`. */
export function describeNetworks(networks: readonly IpNetwork[]): string {
  return networks
    .map(({ address, prefixBits }) => `${formatIpAddress(address)}/${prefixBits}`)
    .join(", ");
}
