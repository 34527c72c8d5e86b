import {
  NdisRssCapabilities,
  RSS_HASH_FUNCTION_MASK,
  RSS_KEY_BYTES,
  RSS_TABLE_ENTRIES,
  RndisStatus,
  RssCapability,
  RssFlag,
  RssHash,
  ToeplitzHash,
  parseRssParameters,
} from "@hyperv-is/hv-netvsc/protocol";
import type { Frame } from "../switch/frame.js";
import { IpProtocol, Ipv4, Ipv6, parseHeaders } from "../switch/frame-headers.js";

/** Receive side scaling of one adapter: which channel a frame goes to, by the hash of its flow. */
export class ReceiveScaling {
  /** Of the last frame that `hash` was asked about: types and function, as the guest is told; 0 if it has no hash. */
  hashInfo = 0;
  hashValue = 0;
  /** Undefined while it is off. */
  #hash: ToeplitzHash | undefined;
  #types = 0;
  readonly #table = new Int32Array(RSS_TABLE_ENTRIES);

  get isOn(): boolean {
    return this.#hash !== undefined;
  }

  /** Value of `genReceiveScaleCapabilities`. @param queues - channels that there may be. */
  static capabilities(queues: number): Uint8Array<ArrayBuffer> {
    return NdisRssCapabilities.emit({
      revision: 2,
      flags: RssCapability.toeplitz | RssCapability.ipv4 | RssCapability.ipv6,
      interruptMessages: 1,
      receiveQueues: queues,
      indirectionEntries: RSS_TABLE_ENTRIES,
    });
  }

  /** Carries out a SET of `genReceiveScaleParameters`. @param queues - channels that there may be. */
  apply(value: Uint8Array, queues: number): RndisStatus {
    const parameters = parseRssParameters(value);
    if (parameters === undefined) return RndisStatus.invalidData;
    const { flags, hashInfo, table, key } = parameters;
    if ((flags & RssFlag.disable) !== 0 || (hashInfo & RSS_HASH_FUNCTION_MASK) === 0) {
      this.#hash = undefined;
      return RndisStatus.success;
    }
    if (key.byteLength !== RSS_KEY_BYTES || table.length === 0) return RndisStatus.invalidData;
    const entries = table.slice(0, RSS_TABLE_ENTRIES);
    if (entries.some((entry) => entry >= queues)) return RndisStatus.invalidData;
    this.#hash = new ToeplitzHash(key);
    this.#types = hashInfo & ~RSS_HASH_FUNCTION_MASK;
    // A short table is repeated.
    for (let index = 0; index < RSS_TABLE_ENTRIES; index++)
      this.#table[index] = entries[index % entries.length]!;
    return RndisStatus.success;
  }

  /** Hashes a frame. @returns Index of the channel that it goes to. */
  channelOf(frame: Frame): number {
    this.hashInfo = 0;
    if (this.#hash === undefined) return 0;
    parseHeaders(frame);
    const { ipVersion, transportAt, networkAt, head } = frame;
    if (ipVersion === 0) return 0;
    const type = this.#typeOf(frame);
    if (type === 0) return 0;
    const addresses = networkAt + (ipVersion === 4 ? Ipv4.source : Ipv6.source);
    const bytes = ipVersion === 4 ? 8 : 32;
    let hash = this.#hash.add(0, 0, head.bytes, addresses, bytes);
    if ((type & WITH_PORTS) !== 0) hash = this.#hash.add(hash, bytes, head.bytes, transportAt, 4);
    this.hashInfo = type | RssHash.toeplitz;
    this.hashValue = hash;
    return this.#table[hash & (RSS_TABLE_ENTRIES - 1)]!;
  }

  /** The type of hash for a frame, of those that the guest wants; 0 if there is none. */
  #typeOf({ ipVersion, transportAt, protocol }: Frame): number {
    const types = this.#types;
    const isTcp = protocol === IpProtocol.tcp && transportAt !== 0;
    const isUdp = protocol === IpProtocol.udp && transportAt !== 0;
    if (ipVersion === 4) {
      if (isTcp && (types & RssHash.tcp4) !== 0) return RssHash.tcp4;
      if (isUdp && (types & RssHash.udp4) !== 0) return RssHash.udp4;
      return types & RssHash.ipv4;
    }
    if (isTcp && (types & RssHash.tcp6) !== 0) return RssHash.tcp6;
    if (isUdp && (types & RssHash.udp6) !== 0) return RssHash.udp6;
    return types & RssHash.ipv6;
  }
}

const WITH_PORTS = RssHash.tcp4 | RssHash.udp4 | RssHash.tcp6 | RssHash.udp6;
