import { formatAddress, formatMac } from "./addresses.js";
import { getU16, getU32, getU8 } from "./network-order.js";
import {
  Arp,
  ArpOperation,
  EtherType,
  Ethernet,
  FRAGMENT_OFFSET_MASK,
  Icmp,
  IcmpType,
  IpProtocol,
  Ipv4,
  Udp,
  UnreachableCode,
} from "./protocol.js";
import { tcpLine } from "./tcp-line.js";

const VLAN_BYTES = 4;
const DHCP_PORTS: ReadonlySet<number> = new Set([67, 68]);

const etherTypeNames: ReadonlyMap<number, string> = new Map([
  [EtherType.ipv4, "IPv4"],
  [EtherType.arp, "ARP"],
  [EtherType.ipv6, "IPv6"],
  [EtherType.vlan, "802.1Q"],
]);

/**
 * What tcpdump prints of a frame in one line, addresses and ports as numbers, without the time.
 * Any bytes may be in it: what ends too early shows as `[|ip]`.
 * @param withLink - Begins with the Ethernet header, as -e has it.
 */
export function packetLine(frame: Uint8Array, withLink = false): string {
  if (frame.byteLength < Ethernet.HEADER_BYTES) return "[|ether]";
  let at: number = Ethernet.HEADER_BYTES;
  let type = getU16(frame, Ethernet.type);
  const header = withLink
    ? `${formatMac(frame, Ethernet.source)} > ${formatMac(frame, Ethernet.destination)}, ethertype ${typeName(type)}, length ${frame.byteLength}: `
    : "";
  let tag = "";
  while (type === EtherType.vlan) {
    if (frame.byteLength < at + VLAN_BYTES) return `${header}[|vlan]`;
    const control = getU16(frame, at);
    type = getU16(frame, at + 2);
    if (withLink)
      tag += `vlan ${control & 0xfff}, p ${control >> 13}${(control & 0x1000) === 0 ? "" : ", DEI"}, ethertype ${typeName(type)}, `;
    at += VLAN_BYTES;
  }
  const name = withLink ? "" : (prefixes.get(type) ?? "");
  switch (type) {
    case EtherType.arp:
      return header + tag + name + arpLine(frame, at);
    case EtherType.ipv4:
      return header + tag + name + ipv4Line(frame, at);
    case EtherType.ipv6:
      return `${header}${tag}${name}length ${frame.byteLength - at}`;
    default:
      return withLink
        ? (header + tag).replace(/: $/, "")
        : `${formatMac(frame, Ethernet.source)} > ${formatMac(frame, Ethernet.destination)}, ethertype ${typeName(type)}, length ${frame.byteLength}`;
  }
}

const prefixes: ReadonlyMap<number, string> = new Map([
  [EtherType.arp, "ARP, "],
  [EtherType.ipv4, "IP "],
  [EtherType.ipv6, "IP6, "],
]);

function typeName(type: number): string {
  return `${etherTypeNames.get(type) ?? "Unknown"} (0x${type.toString(16).padStart(4, "0")})`;
}

function arpLine(frame: Uint8Array, at: number): string {
  const room = frame.byteLength - at;
  if (room < Arp.SIZE) return "[|arp]";
  const operation = getU16(frame, at + Arp.operation);
  const sender = formatAddress(getU32(frame, at + Arp.senderAddress));
  const target = formatAddress(getU32(frame, at + Arp.targetAddress));
  const length = `, length ${room}`;
  if (operation === ArpOperation.reply)
    return `Reply ${sender} is-at ${formatMac(frame, at + Arp.senderMac)}${length}`;
  if (operation !== ArpOperation.request) return `Unknown (${operation})${length}`;
  const mac = formatMac(frame, at + Arp.targetMac);
  const known = mac === "00:00:00:00:00:00" ? "" : ` (${mac})`;
  return `Request who-has ${target}${known} tell ${sender}${length}`;
}

function ipv4Line(frame: Uint8Array, at: number): string {
  const room = frame.byteLength - at;
  if (room < Ipv4.HEADER_BYTES) return "[|ip]";
  const first = getU8(frame, at + Ipv4.versionAndLength);
  if (first >> 4 !== 4) return `ip v${first >> 4}`;
  const headerBytes = (first & 15) * 4;
  const totalBytes = getU16(frame, at + Ipv4.totalLength);
  if (headerBytes < Ipv4.HEADER_BYTES) return `bad-hlen ${headerBytes}`;
  if (totalBytes < headerBytes) return `bad-len ${totalBytes}`;
  const missing = totalBytes > room ? `truncated-ip - ${totalBytes - room} bytes missing! ` : "";
  const source = formatAddress(getU32(frame, at + Ipv4.source));
  const destination = formatAddress(getU32(frame, at + Ipv4.destination));
  const protocol = getU8(frame, at + Ipv4.protocol);
  const payload = at + headerBytes;
  const end = Math.min(frame.byteLength, at + totalBytes);
  const lengthBytes = totalBytes - headerBytes;
  const ends = `${source} > ${destination}: `;
  if ((getU16(frame, at + Ipv4.fragment) & FRAGMENT_OFFSET_MASK) !== 0)
    return `${missing}${ends}ip-proto-${protocol}`;
  const ports = (text: string): string =>
    `${missing}${source}.${getU16(frame, payload)} > ${destination}.${getU16(frame, payload + 2)}: ${text}`;
  switch (protocol) {
    case IpProtocol.icmp:
      return missing + ends + icmpLine(frame, payload, end, lengthBytes);
    case IpProtocol.udp:
      return end - payload < Udp.HEADER_BYTES
        ? `${missing}${ends}[|udp]`
        : ports(udpLine(frame, payload, end, lengthBytes));
    case IpProtocol.tcp: {
      const text = tcpLine(frame, payload, end, lengthBytes);
      return text === undefined ? `${missing}${ends}[|tcp]` : ports(text);
    }
    default:
      return `${missing}${ends} ip-proto-${protocol} ${lengthBytes}`;
  }
}

function udpLine(frame: Uint8Array, at: number, end: number, lengthBytes: number): string {
  const dataBytes = lengthBytes - Udp.HEADER_BYTES;
  const ports = [getU16(frame, at + Udp.sourcePort), getU16(frame, at + Udp.destinationPort)];
  const message = at + Udp.HEADER_BYTES;
  // A message of DHCP has the client's MAC address behind 28 bytes.
  if (ports.every((port) => DHCP_PORTS.has(port)) && end - message >= 34)
    return getU8(frame, message) === 1
      ? `BOOTP/DHCP, Request from ${formatMac(frame, message + 28)}, length ${dataBytes}`
      : `BOOTP/DHCP, Reply, length ${dataBytes}`;
  return `UDP, length ${dataBytes}`;
}

function icmpLine(frame: Uint8Array, at: number, end: number, lengthBytes: number): string {
  if (end - at < Icmp.HEADER_BYTES) return "[|icmp]";
  const type = getU8(frame, at + Icmp.type);
  const code = getU8(frame, at + Icmp.code);
  const length = `, length ${lengthBytes}`;
  const numbers = `, id ${getU16(frame, at + Icmp.identifier)}, seq ${getU16(frame, at + Icmp.sequence)}`;
  switch (type) {
    case IcmpType.echo:
      return `ICMP echo request${numbers}${length}`;
    case IcmpType.echoReply:
      return `ICMP echo reply${numbers}${length}`;
    case IcmpType.unreachable:
      return `ICMP ${unreachable(frame, at, end, code)}${length}`;
    case IcmpType.timeExceeded:
      return code === 0
        ? `ICMP time exceeded in-transit${length}`
        : `ICMP ip reassembly time exceeded${length}`;
    default:
      return `ICMP type-#${type}${length}`;
  }
}

/** What could not be reached: what is quoted says it. */
function unreachable(frame: Uint8Array, at: number, end: number, code: number): string {
  const quoted = at + Icmp.HEADER_BYTES;
  if (end - quoted < Ipv4.HEADER_BYTES) return "[|icmp]";
  const destination = formatAddress(getU32(frame, quoted + Ipv4.destination));
  const protocol = getU8(frame, quoted + Ipv4.protocol);
  switch (code) {
    case UnreachableCode.net:
      return `net ${destination} unreachable`;
    case UnreachableCode.host:
      return `host ${destination} unreachable`;
    case UnreachableCode.protocol:
      return `${destination} protocol ${protocol} unreachable`;
    case UnreachableCode.port: {
      const ports = quoted + (getU8(frame, quoted) & 15) * 4;
      if (end - ports < 4) return "[|icmp]";
      const name =
        protocol === IpProtocol.udp ? "udp" : protocol === IpProtocol.tcp ? "tcp" : undefined;
      const port = getU16(frame, ports + 2);
      return name === undefined
        ? `${destination} protocol ${protocol} port ${port} unreachable`
        : `${destination} ${name} port ${port} unreachable`;
    }
    case UnreachableCode.fragmentationNeeded: {
      const mtu = getU16(frame, at + Icmp.nextMtu);
      return `${destination} unreachable - need to frag${mtu === 0 ? "" : ` (mtu ${mtu})`}`;
    }
    default:
      return `${destination} unreachable - #${code}`;
  }
}
