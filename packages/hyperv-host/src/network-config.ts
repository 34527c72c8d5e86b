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
  /** Waits there for the other side, which may come and go; else the other side waits. */
  readonly listen?: boolean;
  /** A trunk of all VLANs unless told. */
  readonly vlan?: VlanMode;
}

/** What connects a switch with other networks. */
export type Uplink = SocketUplink;

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
