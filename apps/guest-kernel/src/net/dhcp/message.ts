import { MAC_BYTES, classMask, isHostAddress, isMacAt, maskLength } from "../addresses.js";
import { getU16, getU32, getU8, putU16, putU32 } from "../network-order.js";

/** A DHCP message (RFC 2131, section 2): byte offsets, network order. */
export const Dhcp = {
  operation: 0, // u8, 1 request, 2 reply
  hardwareType: 1, // u8, 1
  hardwareLength: 2, // u8, 6
  hops: 3, // u8
  transaction: 4, // u32
  seconds: 8, // u16
  flags: 10, // u16
  clientAddress: 12, // u32, `ciaddr`
  yourAddress: 16, // u32, `yiaddr`
  serverAddress: 20, // u32, `siaddr`
  relayAddress: 24, // u32, `giaddr`
  clientMac: 28, // 16 bytes, `chaddr`
  serverName: 44, // 64 bytes
  file: 108, // 128 bytes
  magic: 236, // u32
  options: 240,
  MAGIC: 0x6382_5363,
  /** Shortest message that all servers take: BOOTP's. */
  MIN_BYTES: 300,
} as const;

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

/** Options (RFC 2132). Open enumeration: any u8 may arrive. */
export const DhcpOption = {
  pad: 0,
  subnetMask: 1,
  routers: 3,
  nameServers: 6,
  hostName: 12,
  domainName: 15,
  interfaceMtu: 26,
  broadcastAddress: 28,
  requestedAddress: 50,
  leaseTime: 51,
  overload: 52,
  messageType: 53,
  serverIdentifier: 54,
  parameterList: 55,
  message: 56,
  maximumSize: 57,
  renewalTime: 58,
  rebindingTime: 59,
  clientIdentifier: 61,
  end: 255,
} as const;

export const DhcpType = {
  discover: 1,
  offer: 2,
  request: 3,
  decline: 4,
  ack: 5,
  nak: 6,
  release: 7,
} as const;

/** What a server has to say. */
export interface DhcpReply {
  readonly type: "offer" | "ack" | "nak";
  /** Who has sent it: the server identifier, or 0. */
  readonly server: number;
  /** 0 in a NAK. */
  readonly address: number;
  readonly mask: number;
  /** The first is the one to use. */
  readonly routers: readonly number[];
  readonly nameServers: readonly number[];
  readonly domainName: string;
  /** 0 when the server does not say. */
  readonly mtu: number;
  /** Seconds; infinite for ever. 0 when the server does not say. */
  readonly leaseS: number;
  readonly renewalS: number;
  readonly rebindingS: number;
  /** Text of a NAK. */
  readonly message: string;
}

/** What a client sends. */
export interface DhcpRequest {
  readonly type: "discover" | "request" | "decline" | "release";
  readonly transaction: number;
  readonly seconds: number;
  readonly mac: Uint8Array;
  readonly hostName: string;
  /** The address that it has; 0 without one. */
  readonly clientAddress: number;
  /** The address that it wants, or does not; 0 for any. */
  readonly requestedAddress: number;
  /** The server that it means; 0 for all. */
  readonly server: number;
}

const wanted = [
  DhcpOption.subnetMask,
  DhcpOption.broadcastAddress,
  DhcpOption.routers,
  DhcpOption.domainName,
  DhcpOption.nameServers,
  DhcpOption.interfaceMtu,
];

/** Longest message that we take: what fits into a packet of the smallest MTU that Ethernet is used with. */
const MAXIMUM_BYTES = 1_472;
/** Addresses of one option that are used. */
const ADDRESSES_MAX = 8;
const FOREVER = 0xffff_ffff;

export function buildRequest(request: DhcpRequest): Uint8Array {
  const { type, mac, clientAddress, requestedAddress, server, hostName } = request;
  const options: number[] = [];
  const add = (code: number, ...data: readonly number[]): void =>
    void options.push(code, data.length, ...data);
  const u32 = (value: number): number[] => [
    value >>> 24,
    (value >>> 16) & 255,
    (value >>> 8) & 255,
    value & 255,
  ];
  add(DhcpOption.messageType, DhcpType[type]);
  add(DhcpOption.clientIdentifier, 1, ...mac);
  if (requestedAddress !== 0) add(DhcpOption.requestedAddress, ...u32(requestedAddress));
  if (server !== 0) add(DhcpOption.serverIdentifier, ...u32(server));
  if (type === "discover" || type === "request") {
    add(DhcpOption.maximumSize, MAXIMUM_BYTES >>> 8, MAXIMUM_BYTES & 255);
    if (hostName !== "")
      add(DhcpOption.hostName, ...new TextEncoder().encode(hostName).slice(0, 63));
    add(DhcpOption.parameterList, ...wanted);
  }
  options.push(DhcpOption.end);
  const bytes = new Uint8Array(Math.max(Dhcp.MIN_BYTES, Dhcp.options + options.length));
  bytes[Dhcp.operation] = 1;
  bytes[Dhcp.hardwareType] = 1;
  bytes[Dhcp.hardwareLength] = MAC_BYTES;
  putU32(bytes, Dhcp.transaction, request.transaction);
  putU16(bytes, Dhcp.seconds, Math.min(0xffff, request.seconds));
  putU32(bytes, Dhcp.clientAddress, clientAddress);
  bytes.set(mac, Dhcp.clientMac);
  putU32(bytes, Dhcp.magic, Dhcp.MAGIC);
  bytes.set(options, Dhcp.options);
  return bytes;
}

/** Adds the options between two positions; those of one code are joined (RFC 3396). @returns False if one does not fit. */
function collect(
  options: Map<number, number[]>,
  bytes: Uint8Array,
  from: number,
  to: number,
): boolean {
  for (let at = from; at < to;) {
    const code = getU8(bytes, at++);
    if (code === DhcpOption.pad) continue;
    if (code === DhcpOption.end) return true;
    if (at >= to) return false;
    const lengthBytes = getU8(bytes, at++);
    if (at + lengthBytes > to) return false;
    const data = options.get(code) ?? [];
    data.push(...bytes.subarray(at, at + lengthBytes));
    options.set(code, data);
    at += lengthBytes;
  }
  return true;
}

function allOptions(bytes: Uint8Array): Map<number, Uint8Array> | undefined {
  const found = new Map<number, number[]>();
  if (!collect(found, bytes, Dhcp.options, bytes.byteLength)) return undefined;
  const overload = found.get(DhcpOption.overload)?.[0] ?? 0;
  if ((overload & 1) !== 0 && !collect(found, bytes, Dhcp.file, Dhcp.magic)) return undefined;
  if ((overload & 2) !== 0 && !collect(found, bytes, Dhcp.serverName, Dhcp.file)) return undefined;
  return new Map([...found].map(([code, data]) => [code, Uint8Array.from(data)]));
}

/** Text of a server, as far as it can be shown. */
function textOf(data: Uint8Array | undefined): string {
  return String.fromCharCode(...(data ?? [])).replace(/[^\x20-\x7e]/g, "");
}

function addressesOf(data: Uint8Array | undefined): number[] {
  const addresses: number[] = [];
  for (let at = 0; data !== undefined && at + 4 <= data.byteLength; at += 4) {
    const address = getU32(data, at);
    if (isHostAddress(address) && addresses.length < ADDRESSES_MAX) addresses.push(address);
  }
  return addresses;
}

/**
 * A server's reply to a client's transaction; undefined for anything else, and for one that cannot be used: without an
 * address that a host can have, or with a mask that has holes.
 */
export function parseReply(
  bytes: Uint8Array,
  mac: Uint8Array,
  transaction: number,
): DhcpReply | undefined {
  if (
    bytes.byteLength < Dhcp.options ||
    getU8(bytes, Dhcp.operation) !== 2 ||
    getU8(bytes, Dhcp.hardwareType) !== 1 ||
    getU8(bytes, Dhcp.hardwareLength) !== MAC_BYTES ||
    getU32(bytes, Dhcp.transaction) !== transaction ||
    !isMacAt(bytes, Dhcp.clientMac, mac) ||
    getU32(bytes, Dhcp.magic) !== Dhcp.MAGIC
  )
    return undefined;
  const options = allOptions(bytes);
  if (options === undefined) return undefined;
  const number = (code: number): number => {
    const data = options.get(code);
    return data?.byteLength === 4 ? getU32(data, 0) : 0;
  };
  const seconds = (code: number): number => (number(code) === FOREVER ? Infinity : number(code));
  const typeCode = options.get(DhcpOption.messageType);
  if (typeCode?.byteLength !== 1) return undefined;
  const type = replyTypes.get(typeCode[0]!);
  if (type === undefined) return undefined;
  const server = number(DhcpOption.serverIdentifier);
  const address = type === "nak" ? 0 : getU32(bytes, Dhcp.yourAddress);
  const mask = number(DhcpOption.subnetMask) || classMask(address);
  if (type !== "nak") {
    const lengthBits = maskLength(mask);
    if (!isHostAddress(address) || lengthBits === undefined) return undefined;
    const host = (address & ~mask) >>> 0;
    if (lengthBits < 31 && (host === 0 || host === ~mask >>> 0)) return undefined;
    if (type === "offer" && !isHostAddress(server)) return undefined;
  }
  const mtu = options.get(DhcpOption.interfaceMtu);
  return {
    type,
    server: isHostAddress(server) ? server : 0,
    address,
    mask,
    routers: addressesOf(options.get(DhcpOption.routers)),
    nameServers: addressesOf(options.get(DhcpOption.nameServers)),
    domainName: textOf(options.get(DhcpOption.domainName)),
    mtu: mtu?.byteLength === 2 ? getU16(mtu, 0) : 0,
    leaseS: seconds(DhcpOption.leaseTime),
    renewalS: seconds(DhcpOption.renewalTime),
    rebindingS: seconds(DhcpOption.rebindingTime),
    message: textOf(options.get(DhcpOption.message)),
  };
}

const replyTypes: ReadonlyMap<number, DhcpReply["type"]> = new Map([
  [DhcpType.offer, "offer"],
  [DhcpType.ack, "ack"],
  [DhcpType.nak, "nak"],
]);
