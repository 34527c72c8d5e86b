import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { NicConfig } from "./netvsp/nic-config.js";
import type { VlanMode } from "./switch/switch-port.js";

/**
 * A unix stream socket over which a switch reaches another network, in the framing of QEMU's stream netdev: a length of
 * four bytes in network order before each frame.
 */
export interface SocketUplink {
  readonly kind: "socket";
  readonly path: string;
  /** Waits there for the other side, which may come and go; else the other side waits, and is connected to again when it went away. */
  readonly listen?: boolean;
  /** A trunk of all VLANs unless told. */
  readonly vlan?: VlanMode;
}

/**
 * A TAP of Linux by which a switch reaches the network of the host's kernel; TCP super-frames and checksums that are
 * still to be computed cross it as they are. Needs root or CAP_NET_ADMIN, and the package koffi.
 */
export interface TapUplink {
  readonly kind: "tap";
  /** At most 15 bytes. An interface of this name is used if it is a TAP that nobody uses, and made if there is none. */
  readonly name: string;
  /** Network namespace that it is in, as `ip netns` names it. */
  readonly netns?: string;
  /** 1500, or what it has, unless told. */
  readonly mtu?: number;
  /** A trunk of all VLANs unless told. */
  readonly vlan?: VlanMode;
}

/** What connects a switch with other networks. */
export type Uplink = SocketUplink | TapUplink;

/** A virtual switch: plain data. */
export interface SwitchConfig {
  readonly name: string;
  readonly uplinks?: readonly Uplink[];
}

/** What goes over an adapter's port, into a pcapng file. */
export interface CaptureConfig {
  readonly instanceId: Guid;
  readonly path: string;
  /** Bytes of each frame that are kept at most; all unless told. */
  readonly snapBytes?: number;
  /** Frames that are captured at most; any number unless told. */
  readonly count?: number;
}

/** The network of a machine: plain data, fit for a worker. Adapters of one switch reach each other. */
export interface NetworkConfig {
  readonly switches: readonly SwitchConfig[];
  readonly adapters: readonly NicConfig[];
  readonly captures?: readonly CaptureConfig[];
}

/** Instance id of the nth network adapter of a machine. */
export function networkAdapterId(index: number): Guid {
  return `f8615163-0000-4000-8000-${index.toString(16).padStart(12, "0")}`;
}
