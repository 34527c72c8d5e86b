import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { ChecksumVerdict, type ReceivedFrame } from "./ethernet-port.js";
import { Carried, carriedBy } from "./frame-headers.js";
import {
  FrameInfoPart,
  RANGES_PER_PACKET_MAX_RSC,
  ReceiveChecksum,
  tagOfVlanInfo,
  type FrameInfo,
} from "./protocol/index.js";
import type { NetvscQueueCounters } from "./queue-counters.js";
import { ReceiveTrust } from "./queue-description.js";

/** Frames up to this size are FreeBSD's small ones: they fit into its smallest buffer. */
const SMALL_BYTES = 168;

/** The frame that is being delivered: filled again for each. */
export class CurrentFrame implements ReceivedFrame {
  runs = 0;
  lengthBytes = 0;
  ticket = 0;
  verdict = 0;
  vlanTag = -1;
  hashInfo = 0;
  hashValue = 0;
  readonly #bytes: Uint8Array;
  readonly #counters: NetvscQueueCounters;
  /** `ReceiveTrust` bits. */
  trust: number;
  readonly #addresses = new Float64Array(RANGES_PER_PACKET_MAX_RSC);
  readonly #lengths = new Int32Array(RANGES_PER_PACKET_MAX_RSC);

  /** @param trust - `ReceiveTrust` bits. */
  constructor(memory: GuestMemory, counters: NetvscQueueCounters, trust: number) {
    this.#bytes = memory.bytes;
    this.#counters = counters;
    this.trust = trust;
  }

  runAddress(index: number): number {
    return this.#addresses[index]!;
  }

  runLength(index: number): number {
    return this.#lengths[index]!;
  }

  /** Appends a piece, which has been checked; there are at most `RANGES_PER_PACKET_MAX_RSC`. */
  add(address: number, lengthBytes: number): void {
    this.#addresses[this.runs] = address;
    this.#lengths[this.runs++] = lengthBytes;
    this.lengthBytes += lengthBytes;
  }

  /** Begins a frame with its first piece, which has been checked, and what the host says of it. */
  begin(address: number, lengthBytes: number, info: FrameInfo): void {
    const { parts } = info;
    this.runs = 0;
    this.lengthBytes = 0;
    this.add(address, lengthBytes);
    this.vlanTag = (parts & FrameInfoPart.vlan) === 0 ? -1 : tagOfVlanInfo(info.vlan);
    const hashed = (parts & FrameInfoPart.hashValue) !== 0;
    this.hashInfo = hashed && (parts & FrameInfoPart.hashInfo) !== 0 ? info.hashInfo : 0;
    this.hashValue = hashed ? info.hashValue : 0;
    if (hashed) this.#counters.rss_pkts++;
    this.verdict =
      (parts & FrameInfoPart.checksum) === 0
        ? this.#trusted(address, lengthBytes)
        : this.#judged(info.checksum);
  }

  /** The frame is whole now. */
  end(): void {
    this.#counters.rxPackets++;
    this.#counters.rxBytes += this.lengthBytes;
    if (this.lengthBytes <= SMALL_BYTES) this.#counters.small_pkts++;
  }

  /** What the host found out. */
  #judged(checksum: number): number {
    const { ipOk, ipValueInvalid, tcpOk, udpOk, tcpValueInvalid } = ReceiveChecksum;
    const counters = this.#counters;
    let verdict = 0;
    if ((checksum & (ipOk | ipValueInvalid)) !== 0) {
      verdict |= ChecksumVerdict.ipValid;
      counters.csum_ip++;
    }
    if ((checksum & (tcpOk | tcpValueInvalid)) !== 0) {
      verdict |= ChecksumVerdict.dataValid;
      counters.csum_tcp++;
    } else if ((checksum & udpOk) !== 0) {
      verdict |= ChecksumVerdict.dataValid;
      counters.csum_udp++;
    }
    if ((checksum & ipValueInvalid) !== 0) verdict |= ChecksumVerdict.ipMissing;
    if ((checksum & tcpValueInvalid) !== 0) verdict |= ChecksumVerdict.dataMissing;
    return verdict;
  }

  /** The host says nothing: FreeBSD takes that for a good sign. */
  #trusted(address: number, lengthBytes: number): number {
    if (this.trust === 0) return 0;
    let verdict = 0;
    switch (carriedBy(this.#bytes, address, lengthBytes)) {
      case Carried.tcp:
        if ((this.trust & ReceiveTrust.tcp) !== 0)
          verdict = ChecksumVerdict.ipValid | ChecksumVerdict.dataValid;
        break;
      case Carried.udp:
        if ((this.trust & ReceiveTrust.udp) !== 0)
          verdict = ChecksumVerdict.ipValid | ChecksumVerdict.dataValid;
        break;
      case Carried.ip:
        if ((this.trust & ReceiveTrust.ip) !== 0) verdict = ChecksumVerdict.ipValid;
        break;
      case Carried.other:
        break;
    }
    if (verdict !== 0) this.#counters.csum_trusted++;
    return verdict;
  }
}
