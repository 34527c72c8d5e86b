// IPv4 addresses are unsigned 32-bit numbers, MAC addresses arrays of 6 bytes.

export const MAC_BYTES = 6;
export const BROADCAST_MAC: Uint8Array = new Uint8Array(MAC_BYTES).fill(0xff);

export const ANY_ADDRESS = 0;
export const BROADCAST_ADDRESS = 0xffff_ffff;
export const LOCALHOST_ADDRESS = 0x7f00_0001;
/** All systems of a link; every interface is a member. */
export const ALL_HOSTS_ADDRESS = 0xe000_0001;

export function formatAddress(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

/** A dotted quad; undefined for anything else. */
export function parseAddress(text: string): number | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (match === null) return undefined;
  const parts = match.slice(1).map(Number);
  if (parts.some((part) => part > 255)) return undefined;
  return parts.reduce((address, part) => address * 256 + part, 0);
}

/** The network mask of a prefix of 0 to 32 bits. */
export function prefixMask(lengthBits: number): number {
  return lengthBits === 0 ? 0 : (0xffff_ffff << (32 - lengthBits)) >>> 0;
}

/** The length of a mask's prefix; undefined for a mask with holes. */
export function maskLength(mask: number): number | undefined {
  const lengthBits = Math.clz32(~mask >>> 0);
  return prefixMask(lengthBits) === mask ? lengthBits : undefined;
}

/** The mask that an address has by its class, for want of a better one. */
export function classMask(address: number): number {
  if (address < 0x8000_0000) return prefixMask(8);
  return prefixMask(address < 0xc000_0000 ? 16 : 24);
}

/** The address of all hosts of a network. */
export function networkBroadcast(address: number, mask: number): number {
  return (address | ~mask) >>> 0;
}

export function isMulticast(address: number): boolean {
  return address >>> 28 === 0xe;
}

/** True for an address that one host can have: not 0.x, not multicast, not reserved or broadcast. */
export function isHostAddress(address: number): boolean {
  return address >= 0x0100_0000 && address < 0xe000_0000;
}

export function formatMac(bytes: Uint8Array, at = 0): string {
  let text = "";
  for (let index = 0; index < MAC_BYTES; index++)
    text += (index === 0 ? "" : ":") + bytes[at + index]!.toString(16).padStart(2, "0");
  return text;
}

/** True if the address at `at` is `mac`. */
export function isMacAt(bytes: Uint8Array, at: number, mac: Uint8Array): boolean {
  for (let index = 0; index < MAC_BYTES; index++)
    if (bytes[at + index] !== mac[index]) return false;
  return true;
}

/** True for the address of one station: no group, and not all zeros. */
export function isStationMac(bytes: Uint8Array, at = 0): boolean {
  if ((bytes[at]! & 1) !== 0) return false;
  for (let index = 0; index < MAC_BYTES; index++) if (bytes[at + index] !== 0) return true;
  return false;
}
