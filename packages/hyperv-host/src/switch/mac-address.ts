import { Ethernet } from "./frame-headers.js";

/** Bytes of a MAC address. */
export const MAC_BYTES = 6;

/** Understands `00:15:5d:0a:01:02`, also with hyphens or without separators; undefined if it is none. */
export function parseMac(text: string): Uint8Array | undefined {
  const digits = /^[\da-f]{2}([:-]?)(?:[\da-f]{2}\1){4}[\da-f]{2}$/i.test(text)
    ? text.replaceAll(/[:-]/g, "")
    : "";
  if (digits === "") return undefined;
  return Uint8Array.from(digits.match(/../g)!, (byte) => Number.parseInt(byte, 16));
}

/** The address as text with colons. */
export function formatMac(address: Uint8Array): string {
  return Array.from(address, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}

/** The first two bytes of the address at `at`, as the upper part of its number. */
export function macHigh(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** Its last four, as an int32. */
export function macLow(bytes: Uint8Array, at: number): number {
  return (bytes[at + 2]! << 24) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!;
}

/** True if the frame goes to a group: all, or those who listen to a multicast address. */
export function isGroupAddress(bytes: Uint8Array): boolean {
  return (bytes[Ethernet.destination]! & 1) !== 0;
}

/** True if the frame goes to all. */
export function isBroadcast(bytes: Uint8Array): boolean {
  return (
    macHigh(bytes, Ethernet.destination) === 0xffff && macLow(bytes, Ethernet.destination) === -1
  );
}
