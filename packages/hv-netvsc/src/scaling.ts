import type { AgreedScaling } from "./parameters.js";
import {
  DEFAULT_RSS_KEY,
  RSS_TABLE_ENTRIES,
  RssCapability,
  RssHash,
  SEND_TABLE_ENTRIES,
  type NdisRssCapabilities,
  type NdisRssParameters,
} from "./protocol/index.js";

/**
 * What of a host's receive side scaling is used; undefined if it is of no use.
 * Source: FreeBSD `hn_rndis_query_rsscaps`.
 */
export function chooseScaling(host: NdisRssCapabilities): AgreedScaling | undefined {
  const { flags, receiveQueues } = host;
  if ((flags & RssCapability.toeplitz) === 0 || receiveQueues < 2) return undefined;
  let hashInfo: number = RssHash.toeplitz;
  if ((flags & RssCapability.ipv4) !== 0) hashInfo |= RssHash.ipv4 | RssHash.tcp4;
  if ((flags & RssCapability.ipv6) !== 0) hashInfo |= RssHash.ipv6 | RssHash.tcp6;
  if (hashInfo === RssHash.toeplitz) return undefined;
  // Revision 1 does not say, and means the most.
  const entries = host.indirectionEntries === 0 ? RSS_TABLE_ENTRIES : host.indirectionEntries;
  const indirectionEntries = Math.min(entries, RSS_TABLE_ENTRIES);
  return {
    receiveQueues: Math.min(receiveQueues, indirectionEntries),
    indirectionEntries,
    hashInfo,
  };
}

/** How frames are to be spread over channels, as far as that was chosen. */
export interface ScalingChoice {
  /** Of the Toeplitz hash: 40 bytes. */
  readonly key?: Uint8Array;
  /** Index of the channel for each entry of the indirection table. */
  readonly table?: readonly number[];
}

/**
 * The parameters that spread frames over channels, by their indices: evenly, and where a chosen channel is none of
 * them.
 */
export function scalingParameters(
  scaling: AgreedScaling,
  channels: readonly number[],
  { key = DEFAULT_RSS_KEY, table = [] }: ScalingChoice = {},
): NdisRssParameters {
  return {
    flags: 0,
    hashInfo: scaling.hashInfo,
    table: Array.from({ length: scaling.indirectionEntries }, (_, entry) => {
      const chosen = table[entry];
      return chosen !== undefined && channels.includes(chosen)
        ? chosen
        : channels[entry % channels.length]!;
    }),
    key,
  };
}

/**
 * Which of `count` channels a flow is sent on.
 *
 * @param hashValue - Of the flow, as an int32. @param table - The host's send indirection table, if it sent one.
 */
export function transmitChannelOf(
  hashValue: number,
  count: number,
  table?: readonly number[],
): number {
  const hash = hashValue >>> 0;
  return (table === undefined ? hash : table[hash % SEND_TABLE_ENTRIES]!) % count;
}
