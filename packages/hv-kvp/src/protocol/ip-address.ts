/** An IP address as bytes in network order: 4 or 16. */
export type IpAddress = Uint8Array;

export const IPV4_BYTES = 4;
export const IPV6_BYTES = 16;

/** A dotted quad, or an IPv6 address without a zone; undefined for anything else. */
export function parseIpAddress(text: string): IpAddress | undefined {
  return text.includes(":") ? parseIpv6(text) : parseIpv4(text);
}

function parseIpv4(text: string): IpAddress | undefined {
  if (!/^(?:0|[1-9]\d{0,2})(?:\.(?:0|[1-9]\d{0,2})){3}$/.test(text)) return undefined;
  const parts = text.split(".").map(Number);
  return parts.every((part) => part <= 255) ? Uint8Array.from(parts) : undefined;
}

function parseIpv6(text: string): IpAddress | undefined {
  if (text.length > 45) return undefined;
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const [head, tail] = halves.map((half, index) => groupsOf(half, index === halves.length - 1));
  if (head === undefined) return undefined;
  const address = new Uint8Array(IPV6_BYTES);
  if (halves.length === 1) {
    if (head.length !== IPV6_BYTES) return undefined;
    address.set(head);
    return address;
  }
  if (tail === undefined || head.length + tail.length > IPV6_BYTES - 2) return undefined;
  address.set(head);
  address.set(tail, IPV6_BYTES - tail.length);
  return address;
}

/** The bytes of groups of hexadecimal digits between colons; the last one of an address may be a dotted quad. */
function groupsOf(text: string, isLast: boolean): number[] | undefined {
  if (text === "") return [];
  const bytes: number[] = [];
  const groups = text.split(":");
  for (const [index, group] of groups.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(group)) {
      const value = Number.parseInt(group, 16);
      bytes.push(value >>> 8, value & 0xff);
      continue;
    }
    const quad = isLast && index === groups.length - 1 ? parseIpv4(group) : undefined;
    if (quad === undefined) return undefined;
    bytes.push(...quad);
  }
  return bytes;
}

/** An address as text; IPv6 as RFC 5952 has it: lower case, the longest run of zeros as `::`. */
export function formatIpAddress(address: IpAddress): string {
  if (address.byteLength === IPV4_BYTES) return address.join(".");
  const groups = Array.from({ length: 8 }, (_, index) =>
    ((address[2 * index]! << 8) | address[2 * index + 1]!).toString(16),
  );
  const { start, length } = longestZeros(groups);
  if (length < 2) return groups.join(":");
  return `${groups.slice(0, start).join(":")}::${groups.slice(start + length).join(":")}`;
}

function longestZeros(groups: readonly string[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  for (let start = 0; start < groups.length; start++) {
    let length = 0;
    while (groups[start + length] === "0") length++;
    if (length > best.length) best = { start, length };
  }
  return best;
}

/** True for an IPv4 address. */
export function isIpv4(address: IpAddress): boolean {
  return address.byteLength === IPV4_BYTES;
}

/** Length of the prefix that a mask of 4 bytes stands for; undefined for a mask with holes. */
export function maskPrefix(mask: Uint8Array): number | undefined {
  const value = mask.reduce((sum, byte) => sum * 256 + byte, 0);
  const length = Math.clz32(~value >>> 0);
  return prefixValue(length) === value ? length : undefined;
}

/** The mask of an IPv4 prefix of 0 to 32 bits. */
export function prefixMask(lengthBits: number): IpAddress {
  const value = prefixValue(lengthBits);
  return Uint8Array.from([value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);
}

function prefixValue(lengthBits: number): number {
  return lengthBits === 0 ? 0 : (0xffff_ffff << (32 - lengthBits)) >>> 0;
}
