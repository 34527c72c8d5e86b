import { resolve } from "node:path";
import {
  formatMac,
  parseMac,
  type BandwidthOptions,
  type NetworkConfig,
  type SwitchConfig,
  type Uplink,
  type VlanMode,
} from "@hyperv-is/hyperv-host";
import {
  HostOptionError,
  parseNic as parseHostNic,
  parseTap,
  placeNics,
} from "@hyperv-is/hyperv-host/node";
import { BootError } from "./boot-error.js";
import type { NicStack } from "./net/hn/nic-stack.js";

/** A network adapter of a machine. */
export interface NicOptions {
  /** Name of the switch that it is connected to. */
  readonly switch: string;
  /** `00:15:5d:0a:01:01`. Made up like Hyper-V's dynamic ones unless told, see `placeNics`. */
  readonly mac?: string;
  /** The network without VLANs unless told. */
  readonly vlan?: VlanMode;
  /** Frames may come from other addresses, too; no unless told. */
  readonly allowMacSpoofing?: boolean;
  /** Most that the guest may send; no limit unless told. */
  readonly bandwidth?: BandwidthOptions;
  /** Offers to coalesce received segments; yes unless told. */
  readonly receiveCoalescing?: boolean;
  /** `builtin` unless told. */
  readonly stack?: NicStack;
}

/** A virtual switch of a machine. */
export interface SwitchOptions {
  readonly name: string;
  readonly uplinks?: readonly Uplink[];
}

/** The network of a machine, for its host and for its guest. */
export interface MachineNetwork {
  readonly config: NetworkConfig;
  /** By instance id, in the order of the adapters. */
  readonly stacks: ReadonlyMap<string, NicStack>;
}

/** What adapters of this program's machines know besides, for its help. */
export const nicStackSyntax = "[,stack=builtin|tap:NAME[@NETNS]]";

/** Understands `--nic`. Throws `HostOptionError`. */
export function parseNic(text: string): NicOptions {
  const { nic, own } = parseHostNic(text, ["stack"]);
  const { mac, ...rest } = nic;
  const stack = own.get("stack");
  return {
    ...rest,
    ...(mac && { mac: formatMac(mac) }),
    ...(stack !== undefined && { stack: parseStack(stack, text) }),
  };
}

function parseStack(text: string, option: string): NicStack {
  if (text === "builtin") return { kind: "builtin" };
  const tap = text.startsWith("tap:") ? parseTap(text.slice(4)) : undefined;
  if (tap === undefined)
    throw new HostOptionError(
      `--nic ${option}: there is no stack '${text}'; it is builtin or tap:NAME[@NETNS]`,
    );
  return { kind: "tap", ...tap };
}

/**
 * The network that a user asks for. Throws `ERR_NETWORK` for what `placeNics` refuses, and for an address that is none.
 *
 * @param identity - What the machine is known by.
 */
export function networkOf(
  nics: readonly NicOptions[],
  switches: readonly SwitchOptions[],
  identity: string,
  subChannelsMax: number,
): MachineNetwork {
  const wanted = nics.map((nic) => {
    const { mac: text, vlan, allowMacSpoofing, bandwidth, receiveCoalescing } = nic;
    const mac = text === undefined ? undefined : parseMac(text);
    if (text !== undefined && mac === undefined)
      throw new BootError("ERR_NETWORK", `${text}: write an address as 00:15:5d:0a:01:01`);
    return {
      switch: nic.switch,
      subChannelsMax,
      ...(mac && { mac }),
      ...(vlan && { vlan }),
      ...(allowMacSpoofing !== undefined && { allowMacSpoofing }),
      ...(bandwidth && { bandwidth }),
      ...(receiveCoalescing !== undefined && { receiveCoalescing }),
    };
  });
  const config = (() => {
    try {
      return placeNics(wanted, switches.map(switchConfig), identity);
    } catch (error) {
      if (error instanceof HostOptionError) throw new BootError("ERR_NETWORK", error.message);
      throw error;
    }
  })();
  const stacks = config.adapters.map(
    ({ instanceId }, index) => [instanceId, nics[index]!.stack ?? { kind: "builtin" }] as const,
  );
  return { config, stacks: new Map(stacks) };
}

function switchConfig({ name, uplinks = [] }: SwitchOptions): SwitchConfig {
  return {
    name,
    uplinks: uplinks.map((uplink) =>
      uplink.kind === "socket" ? { ...uplink, path: resolve(uplink.path) } : uplink,
    ),
  };
}
