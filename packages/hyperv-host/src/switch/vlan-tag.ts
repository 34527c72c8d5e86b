import { NO_VLAN_TAG, type Frame } from "./frame.js";
import { EtherType, Ethernet } from "./frame-headers.js";
import { get16, put16 } from "./internet-checksum.js";

/** Bits of an 802.1Q tag that name the VLAN. */
const VLAN_ID_MASK = 0xfff;

/** The VLAN of a tag; 0 if it has only a priority. */
export function vlanIdOf(tag: number): number {
  return tag & VLAN_ID_MASK;
}

/** Takes an 802.1Q tag out of the bytes of a frame, if there is one, and has it beside them; an inner tag stays. */
export function stripVlanTag(frame: Frame): void {
  const { bytes } = frame.head;
  const { etherType, tagBytes, headerBytes } = Ethernet;
  if (frame.vlanTag !== NO_VLAN_TAG || frame.headBytes < headerBytes + tagBytes) return;
  if (get16(bytes, etherType) !== EtherType.vlan) return;
  frame.vlanTag = get16(bytes, etherType + 2);
  bytes.copyWithin(etherType, etherType + tagBytes, frame.headBytes);
  frame.headBytes -= tagBytes;
  if (frame.checksumStart !== 0) frame.checksumStart -= tagBytes;
  frame.isParsed = false;
}

/** Puts the tag of a frame, if it has one, among its bytes. */
export function insertVlanTag(frame: Frame): void {
  if (frame.vlanTag === NO_VLAN_TAG) return;
  const { bytes } = frame.head;
  const { etherType, tagBytes } = Ethernet;
  bytes.copyWithin(etherType + tagBytes, etherType, frame.headBytes);
  put16(bytes, etherType, EtherType.vlan);
  put16(bytes, etherType + 2, frame.vlanTag);
  frame.headBytes += tagBytes;
  if (frame.checksumStart !== 0) frame.checksumStart += tagBytes;
  frame.vlanTag = NO_VLAN_TAG;
  frame.isParsed = false;
}
