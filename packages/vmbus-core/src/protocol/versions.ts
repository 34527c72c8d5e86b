/** Protocol versions as they travel: major << 16 | minor, so that numbers compare as versions do. */
export const ProtocolVersion = {
  v0_13: 0x0000_000d,
  v1_1: 0x0001_0001,
  v2_4: 0x0002_0004,
  v3_0: 0x0003_0000,
  v4_0: 0x0004_0000,
  v4_1: 0x0004_0001,
  v5_0: 0x0005_0000,
  v5_1: 0x0005_0001,
  v5_2: 0x0005_0002,
  v5_3: 0x0005_0003,
  v6_0: 0x0006_0000,
} as const;
/** Open enumeration: any u32 may arrive. */
export type ProtocolVersion =
  (typeof ProtocolVersion)[keyof typeof ProtocolVersion] | (number & {});

/** A version that exists, and the first host that speaks it. */
export interface VersionRow {
  readonly version: ProtocolVersion;
  readonly host: string;
}

/** All versions, newest first: the order of negotiation. */
export const protocolVersions: readonly VersionRow[] = [
  { version: ProtocolVersion.v6_0, host: "Copper" },
  { version: ProtocolVersion.v5_3, host: "Windows Server 2022" },
  { version: ProtocolVersion.v5_2, host: "Windows Server 2019, Windows 10 RS5" },
  { version: ProtocolVersion.v5_1, host: "Windows 10 RS4" },
  { version: ProtocolVersion.v5_0, host: "Windows 10 RS3" },
  { version: ProtocolVersion.v4_1, host: "Windows 10 RS3" },
  { version: ProtocolVersion.v4_0, host: "Windows 10" },
  { version: ProtocolVersion.v3_0, host: "Windows Server 2012 R2, Windows 8.1" },
  { version: ProtocolVersion.v2_4, host: "Windows Server 2012, Windows 8" },
  { version: ProtocolVersion.v1_1, host: "Windows Server 2008 R2, Windows 7" },
  { version: ProtocolVersion.v0_13, host: "Windows Server 2008" },
];

/**
 * The first version with each behaviour. Messages have their version in the message table, and what
 * depends on a feature of 6.0 is in `Feature`.
 */
export const behaviourSince = {
  /** The guest signals each channel on the connection of its offer; below, all on `ConnectionId.event`. */
  channelConnectionIds: ProtocolVersion.v1_1,
  /** The host raises event flag = relid; below, flag 0 and the interrupt page, on vCPU 0 only. */
  eventFlags: ProtocolVersion.v2_4,
  /** OPENCHANNEL chooses the vCPU. */
  channelTargetVp: ProtocolVersion.v2_4,
  subChannels: ProtocolVersion.v2_4,
  pendingSendSize: ProtocolVersion.v2_4,
  /** VERSION_RESPONSE tells failures; a host below answers "unsupported" instead. */
  connectionState: ProtocolVersion.v2_4,
  /** INITIATE_CONTACT chooses the vCPU of messages; below, vCPU 0. */
  messageTargetVp: ProtocolVersion.v3_0,
  /** A guest may connect again after UNLOAD. */
  reconnect: ProtocolVersion.v3_0,
  /** INITIATE_CONTACT carries SINT (and later trust level, features) in place of the interrupt page. */
  targetInfo: ProtocolVersion.v5_0,
  /** Contact on `ConnectionId.multiclientMessage`, later messages where VERSION_RESPONSE says. */
  namedMessageConnection: ProtocolVersion.v5_0,
  trustLevel: ProtocolVersion.v5_1,
  /** Least version of an isolated guest. */
  isolation: ProtocolVersion.v5_2,
  featureFlags: ProtocolVersion.v6_0,
} as const;

/** Name of a behaviour that depends on the version alone. */
export type VersionBehaviour = keyof typeof behaviourSince;

/** True if `version` has the behaviour. */
export function versionHas(version: ProtocolVersion, behaviour: VersionBehaviour): boolean {
  return version >= behaviourSince[behaviour];
}

/** Features of 6.0: asked for in INITIATE_CONTACT, granted in VERSION_RESPONSE. */
export const Feature = {
  /** OPENCHANNEL carries connection id and event flag. */
  guestSignalParameters: 0x1,
  /** OPENCHANNEL may redirect the channel's interrupt. */
  interruptRedirection: 0x2,
  modifyConnection: 0x4,
  /** INITIATE_CONTACT carries the guest's id. */
  clientId: 0x8,
  confidentialChannels: 0x10,
  pauseResume: 0x20,
  /** VERSION_RESPONSE carries monitor pages of the host's. */
  hostMonitorPages: 0x40,
  gpaPinning: 0x80,
} as const;

/** What the two sides have agreed on; nothing as long as they are not connected. */
export interface Negotiated {
  readonly version: ProtocolVersion;
  /** Granted `Feature` bits; 0 below 6.0. */
  readonly features: number;
}

/** The versions to ask for, newest first, none above `ceiling`. */
export function negotiationOrder(ceiling: ProtocolVersion): ProtocolVersion[] {
  return protocolVersions.map((row) => row.version).filter((version) => version <= ceiling);
}

/** True if the version exists. */
export function isProtocolVersion(version: number): boolean {
  return protocolVersions.some((row) => row.version === version);
}

/** "5.3". */
export function formatVersion(version: ProtocolVersion): string {
  return `${version >>> 16}.${version & 0xffff}`;
}

/** Parses "5.3"; undefined if the text is not a version that exists. */
export function parseVersion(text: string): ProtocolVersion | undefined {
  return protocolVersions.find((row) => formatVersion(row.version) === text)?.version;
}

/** Highest relid that a host may offer; 0 is never one. */
export function maximumRelid(version: ProtocolVersion): number {
  return versionHas(version, "eventFlags") ? 2047 : 255;
}
