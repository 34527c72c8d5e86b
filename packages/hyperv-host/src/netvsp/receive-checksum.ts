import { ReceiveChecksum } from "@hyperv-is/hv-netvsc/protocol";
import { ChecksumVerdict, verifyIpHeader, verifyTransport } from "../switch/checksum-offload.js";
import type { Frame } from "../switch/frame.js";
import { IpProtocol, parseHeaders } from "../switch/frame-headers.js";
import type { ChecksumSettings } from "./offload-settings.js";

/**
 * What a guest is told of the checksums of a frame: `ReceiveChecksum` bits.
 *
 * @param settings - those that the guest wants to hear of; the others are not looked at.
 */
export function receiveChecksum(frame: Frame, settings: ChecksumSettings): number {
  parseHeaders(frame);
  let bits = 0;
  if (frame.ipVersion === 4 && settings.ipHeader) {
    const verdict = said(frame, verifyIpHeader(frame));
    if (verdict === ChecksumVerdict.good) bits |= ReceiveChecksum.ipOk;
    else if (verdict === ChecksumVerdict.bad) bits |= ReceiveChecksum.ipFailed;
  }
  if (!wantsTransport(frame, settings)) return bits;
  const isTcp = frame.protocol === IpProtocol.tcp;
  const verdict = said(frame, verifyTransport(frame));
  if (verdict === ChecksumVerdict.good)
    bits |= isTcp ? ReceiveChecksum.tcpOk : ReceiveChecksum.udpOk;
  else if (verdict === ChecksumVerdict.bad)
    bits |= isTcp ? ReceiveChecksum.tcpFailed : ReceiveChecksum.udpFailed;
  if (frame.checksumStart !== 0) bits |= ReceiveChecksum.tcpValueInvalid;
  return bits;
}

function wantsTransport(
  { ipVersion, protocol, transportAt }: Frame,
  settings: ChecksumSettings,
): boolean {
  if (transportAt === 0) return false;
  const isTcp = protocol === IpProtocol.tcp;
  if (ipVersion === 4) return isTcp ? settings.tcp4 : settings.udp4;
  return isTcp ? settings.tcp6 : settings.udp6;
}

/** The verdict, or what a fault makes of it. */
function said({ invertsVerdict }: Frame, verdict: ChecksumVerdict): ChecksumVerdict {
  if (!invertsVerdict || verdict === ChecksumVerdict.none) return verdict;
  return verdict === ChecksumVerdict.good ? ChecksumVerdict.bad : ChecksumVerdict.good;
}
