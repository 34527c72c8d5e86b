import { ChecksumVerdict, type ReceivedFrame } from "@hyperv-is/hv-netvsc";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { FrameChecksum } from "../network-device.js";
import { putU16 } from "../network-order.js";
import { EtherType, Ethernet } from "../protocol.js";

const VLAN_TAG_BYTES = 4;
/** The longest IP packet with an Ethernet header and a tag. */
export const RECEIVED_BYTES_MAX = 0xffff + Ethernet.HEADER_BYTES + VLAN_TAG_BYTES;

/** Bytes of a frame with its tag among them. */
export function receivedBytes({ lengthBytes, vlanTag }: ReceivedFrame): number {
  return lengthBytes + (vlanTag < 0 ? 0 : VLAN_TAG_BYTES);
}

/** False for what is no Ethernet frame, whatever the host says. */
export function isEthernetFrame(frame: ReceivedFrame): boolean {
  return frame.lengthBytes >= Ethernet.HEADER_BYTES && receivedBytes(frame) <= RECEIVED_BYTES_MAX;
}

/** Copies a frame, which `isEthernetFrame`, out of guest memory; its tag is among its bytes then. */
export function copyReceived(memory: GuestMemory, frame: ReceivedFrame, to: Uint8Array): void {
  let at = 0;
  for (let run = 0; run < frame.runs; run++) {
    const address = frame.runAddress(run);
    const length = frame.runLength(run);
    to.set(memory.bytes.subarray(address, address + length), at);
    at += length;
  }
  if (frame.vlanTag < 0) return;
  to.copyWithin(Ethernet.type + VLAN_TAG_BYTES, Ethernet.type, at);
  putU16(to, Ethernet.type, EtherType.vlan);
  putU16(to, Ethernet.type + 2, frame.vlanTag);
}

/** The `FrameChecksum` bits of those that the stack need not look at. @param trusts - `RXCSUM` is on. */
export function verifiedChecksums(verdict: number, trusts: boolean): number {
  const { ipValid, ipMissing, dataValid, dataMissing } = ChecksumVerdict;
  // One that nobody has computed is not wrong, whomever one trusts.
  const ip = trusts ? ipValid | ipMissing : ipMissing;
  const data = trusts ? dataValid | dataMissing : dataMissing;
  let verified = 0;
  if ((verdict & ip) !== 0) verified |= FrameChecksum.ip;
  if ((verdict & data) !== 0) verified |= FrameChecksum.data;
  return verified;
}
