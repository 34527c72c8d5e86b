import {
  ChecksumFlag4,
  ChecksumFlag6,
  ENCAPSULATION_802_3,
  LARGE_SEND_BYTES_MAX,
  LARGE_SEND_SEGMENTS_MIN,
  LargeSend6Option,
  LargeSendParameter,
  NdisOffload,
  OffloadParameter,
  type NdisOffloadParameters,
  type RndisConfigParameter,
} from "@hyperv-is/hv-netvsc/protocol";

/** Which checksums an adapter does for its guest in one direction. */
export interface ChecksumSettings {
  ipHeader: boolean;
  tcp4: boolean;
  udp4: boolean;
  tcp6: boolean;
  udp6: boolean;
}

const everyChecksum = (): ChecksumSettings => ({
  ipHeader: true,
  tcp4: true,
  udp4: true,
  tcp6: true,
  udp6: true,
});

/** Names of configuration parameters whose value has a bit for each direction. */
const checksumParameters: Readonly<Record<string, keyof ChecksumSettings>> = {
  "*IPChecksumOffloadIPv4": "ipHeader",
  "*TCPChecksumOffloadIPv4": "tcp4",
  "*TCPChecksumOffloadIPv6": "tcp6",
  "*UDPChecksumOffloadIPv4": "udp4",
  "*UDPChecksumOffloadIPv6": "udp6",
};

/** What an adapter can do, and what of it the guest has switched on: everything but coalescing until it says otherwise. */
export class OffloadSettings {
  readonly transmit: ChecksumSettings = everyChecksum();
  readonly receive: ChecksumSettings = everyChecksum();
  largeSend4 = true;
  largeSend6 = true;
  coalesce4 = false;
  coalesce6 = false;
  readonly #canCoalesce: boolean;

  /** @param canCoalesce - received segments. */
  constructor(canCoalesce: boolean) {
    this.#canCoalesce = canCoalesce;
  }

  /** Value of a SET of `tcpOffloadParameters`. @returns False if it asks for what there is not. */
  apply(parameters: NdisOffloadParameters): boolean {
    if (parameters.lsoV1 === LargeSendParameter.on) return false;
    this.#applyChecksum("ipHeader", parameters.ipv4Checksum);
    this.#applyChecksum("tcp4", parameters.tcp4Checksum);
    this.#applyChecksum("udp4", parameters.udp4Checksum);
    this.#applyChecksum("tcp6", parameters.tcp6Checksum);
    this.#applyChecksum("udp6", parameters.udp6Checksum);
    this.largeSend4 = switched(parameters.lsoV2Ipv4, this.largeSend4);
    this.largeSend6 = switched(parameters.lsoV2Ipv6, this.largeSend6);
    this.coalesce4 = switched(parameters.rscIpv4, this.coalesce4) && this.#canCoalesce;
    this.coalesce6 = switched(parameters.rscIpv6, this.coalesce6) && this.#canCoalesce;
    return true;
  }

  /** A configuration parameter; those that are not known here are ignored. @returns False if a value is no digit. */
  configure({ name, value }: RndisConfigParameter): boolean {
    if (typeof value === "number") return true;
    const digit = value.charCodeAt(0) - 0x30;
    if (!(digit >= 0 && digit <= 9)) return false;
    const checksum = checksumParameters[name];
    if (checksum !== undefined) {
      this.transmit[checksum] = (digit & 1) !== 0;
      this.receive[checksum] = (digit & 2) !== 0;
    } else if (name === "*LsoV2IPv4") this.largeSend4 = digit !== 0;
    else if (name === "*LsoV2IPv6") this.largeSend6 = digit !== 0;
    return true;
  }

  /** Value of `tcpOffloadCurrentConfig`. */
  current(): Uint8Array<ArrayBuffer> {
    return emit(this, this.coalesce4, this.coalesce6);
  }

  /** Value of `tcpOffloadHardwareCapabilities`. */
  capabilities(): Uint8Array<ArrayBuffer> {
    return emit(new OffloadSettings(false), this.#canCoalesce, this.#canCoalesce);
  }

  #applyChecksum(name: keyof ChecksumSettings, value: number): void {
    const { off, tx, rx, txRx } = OffloadParameter;
    if (value < off || value > txRx) return;
    this.transmit[name] = value === tx || value === txRx;
    this.receive[name] = value === rx || value === txRx;
  }
}

function switched(value: number, before: boolean): boolean {
  if (value === LargeSendParameter.off) return false;
  return value === LargeSendParameter.on || before;
}

function emit(
  settings: OffloadSettings,
  coalesce4: boolean,
  coalesce6: boolean,
): Uint8Array<ArrayBuffer> {
  const { transmit, receive, largeSend4, largeSend6 } = settings;
  const { ipExtensions, tcpOptions } = LargeSend6Option;
  return NdisOffload.emit({
    revision: 3,
    ipv4TxEncapsulation: ENCAPSULATION_802_3,
    ipv4TxChecksum: flags4(transmit),
    ipv4RxEncapsulation: ENCAPSULATION_802_3,
    ipv4RxChecksum: flags4(receive),
    ipv6TxEncapsulation: ENCAPSULATION_802_3,
    ipv6TxChecksum: flags6(transmit),
    ipv6RxEncapsulation: ENCAPSULATION_802_3,
    ipv6RxChecksum: flags6(receive),
    lsoV2Ipv4Encapsulation: largeSend4 ? ENCAPSULATION_802_3 : 0,
    lsoV2Ipv4MaxBytes: largeSend4 ? LARGE_SEND_BYTES_MAX : 0,
    lsoV2Ipv4MinSegments: largeSend4 ? LARGE_SEND_SEGMENTS_MIN : 0,
    lsoV2Ipv6Encapsulation: largeSend6 ? ENCAPSULATION_802_3 : 0,
    lsoV2Ipv6MaxBytes: largeSend6 ? LARGE_SEND_BYTES_MAX : 0,
    lsoV2Ipv6MinSegments: largeSend6 ? LARGE_SEND_SEGMENTS_MIN : 0,
    lsoV2Ipv6Options: largeSend6 ? ipExtensions | tcpOptions : 0,
    flags: 0,
    rscIpv4: coalesce4 ? 1 : 0,
    rscIpv6: coalesce6 ? 1 : 0,
  });
}

function flags4({ ipHeader, tcp4, udp4 }: ChecksumSettings): number {
  const flag = ChecksumFlag4;
  return (
    (ipHeader ? flag.ipHeader | flag.ipOptions : 0) |
    (tcp4 ? flag.tcp | flag.tcpOptions : 0) |
    (udp4 ? flag.udp : 0)
  );
}

function flags6({ tcp6, udp6 }: ChecksumSettings): number {
  const flag = ChecksumFlag6;
  return (
    (tcp6 ? flag.tcp | flag.tcpOptions | flag.ipExtensions : 0) |
    (udp6 ? flag.udp | flag.ipExtensions : 0)
  );
}
