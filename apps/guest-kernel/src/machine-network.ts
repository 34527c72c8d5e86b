import { createHash } from "node:crypto";
import { resolve } from "node:path";
import {
  formatMac,
  networkAdapterId,
  parseMac,
  type BandwidthOptions,
  type NetworkConfig,
  type NicConfig,
  type SwitchConfig,
  type Uplink,
  type VlanMode,
} from "@hyperv-is/hyperv-host";
import { BootError } from "./boot-error.js";
import type { NicStack } from "./net/hn/nic-stack.js";

/** A network adapter of a machine. */
export interface NicOptions {
  /** Name of the switch that it is connected to. */
  readonly switch: string;
  /** `00:15:5d:0a:01:01`. Made up like Hyper-V's dynamic ones unless told, see `networkOf`. */
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

/** What Hyper-V lets a machine have. */
export const NICS_MAX = 8;
const VLAN_MAX = 4094;
/** Microsoft's: the beginning of every address that Hyper-V makes up. */
const DYNAMIC_MAC_PREFIX = [0x00, 0x15, 0x5d];

const nicSyntax = "switch=NAME[,mac=..][,vlan=N][,spoof=on][,stack=builtin|tap:NAME[@NETNS]]";
const switchSyntax = "NAME[,uplink=socket:PATH[,listen]|tap:NAME[@NETNS]]";

function mistake(message: string): BootError {
  return new BootError("ERR_NETWORK", message);
}

/** Understands `--nic`. Throws `ERR_NETWORK`. */
export function parseNic(text: string): NicOptions {
  const wrong = (why: string): BootError =>
    mistake(`--nic ${text}: ${why}; write it as ${nicSyntax}`);
  const values = new Map<string, string>();
  for (const word of text.split(",")) {
    const [, key, value] = /^(switch|mac|vlan|spoof|stack)=(.+)$/s.exec(word) ?? [];
    if (key === undefined || value === undefined) throw wrong(`'${word}' is not known`);
    if (values.has(key)) throw wrong(`${key} is there twice`);
    values.set(key, value);
  }
  const [name, mac, vlan, spoof, stack] = ["switch", "mac", "vlan", "spoof", "stack"].map((key) =>
    values.get(key),
  );
  if (name === undefined) throw wrong("the switch is missing");
  if (vlan !== undefined && !(/^\d{1,4}$/.test(vlan) && isVlan(Number(vlan))))
    throw wrong(`VLANs are 1 to ${VLAN_MAX}`);
  if (spoof !== undefined && spoof !== "on" && spoof !== "off") throw wrong("spoof is on or off");
  return {
    switch: name,
    ...(mac !== undefined && { mac }),
    ...(vlan !== undefined && { vlan: { mode: "access", id: Number(vlan) } }),
    ...(spoof !== undefined && { allowMacSpoofing: spoof === "on" }),
    ...(stack !== undefined && { stack: parseStack(stack, wrong) }),
  };
}

function parseStack(text: string, wrong: (why: string) => BootError): NicStack {
  if (text === "builtin") return { kind: "builtin" };
  const tap = text.startsWith("tap:") ? parseTap(text.slice(4)) : undefined;
  if (tap === undefined) throw wrong(`there is no stack '${text}'`);
  return { kind: "tap", ...tap };
}

/** Understands `--switch`. Throws `ERR_NETWORK`. */
export function parseSwitch(text: string): SwitchOptions {
  const wrong = (why: string): BootError =>
    mistake(`--switch ${text}: ${why}; write it as ${switchSyntax}`);
  const [name = "", ...words] = text.split(",");
  if (name === "" || name.includes("=")) throw wrong("the name is missing");
  const uplinks: Uplink[] = [];
  for (const word of words) {
    const last = uplinks.at(-1);
    if (word === "listen" && last?.kind === "socket") {
      uplinks[uplinks.length - 1] = { ...last, listen: true };
      continue;
    }
    const [, kind, value] = /^uplink=(socket|tap):(.+)$/s.exec(word) ?? [];
    if (kind === undefined || value === undefined) throw wrong(`'${word}' is not known`);
    uplinks.push(kind === "tap" ? parseTapUplink(value, wrong) : { kind: "socket", path: value });
  }
  return { name, ...(uplinks.length > 0 && { uplinks }) };
}

function parseTapUplink(text: string, wrong: (why: string) => BootError): Uplink {
  const { name, namespace } = parseTap(text) ?? {};
  if (name === undefined) throw wrong(`'${text}' is the name of no TAP`);
  return { kind: "tap", name, ...(namespace !== undefined && { netns: namespace }) };
}

/** A TAP and its network namespace: `NAME[@NETNS]`. */
function parseTap(text: string): { name: string; namespace?: string } | undefined {
  const [, name, namespace] = /^([^@]+)(?:@(.+))?$/s.exec(text) ?? [];
  return name === undefined ? undefined : { name, ...(namespace !== undefined && { namespace }) };
}

/**
 * The network that a user asks for. An adapter without an address gets one that Hyper-V could have made up: the same
 * at each boot of the same machine, and another one in another machine.
 *
 * Throws `ERR_NETWORK` for what cannot be: too many adapters, an address that is none or there twice, a switch that is
 * missing or there twice.
 *
 * @param identity - What the machine is known by.
 */
export function networkOf(
  nics: readonly NicOptions[],
  switches: readonly SwitchOptions[],
  identity: string,
  subChannelsMax: number,
): MachineNetwork {
  if (nics.length > NICS_MAX) throw mistake(`a machine has at most ${NICS_MAX} network adapters`);
  const names = switches.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw mistake(`there are two switches ${twice}`);
  const macs = new Set<string>();
  const adapters = nics.map((nic, index): NicConfig => {
    if (!names.includes(nic.switch))
      throw mistake(
        `there is no switch ${nic.switch}: add --switch ${nic.switch}` +
          (names.length === 0 ? "" : `, or take one of ${names.join(", ")}`),
      );
    const mac = nic.mac === undefined ? dynamicMac(identity, index, macs) : stationMac(nic.mac);
    const text = formatMac(mac);
    if (macs.has(text)) throw mistake(`two network adapters have the address ${text}`);
    macs.add(text);
    const { vlan, allowMacSpoofing, bandwidth, receiveCoalescing } = nic;
    return {
      instanceId: networkAdapterId(index),
      mac,
      switch: nic.switch,
      subChannelsMax,
      ...(vlan && { vlan }),
      ...(allowMacSpoofing !== undefined && { allowMacSpoofing }),
      ...(bandwidth && { bandwidth }),
      ...(receiveCoalescing !== undefined && { receiveCoalescing }),
    };
  });
  const stacks = nics.map(
    ({ stack = { kind: "builtin" } }, index) => [networkAdapterId(index), stack] as const,
  );
  return { config: { switches: switches.map(switchConfig), adapters }, stacks: new Map(stacks) };
}

function switchConfig({ name, uplinks = [] }: SwitchOptions): SwitchConfig {
  return {
    name,
    uplinks: uplinks.map((uplink) =>
      uplink.kind === "socket" ? { ...uplink, path: resolve(uplink.path) } : uplink,
    ),
  };
}

function isVlan(id: number): boolean {
  return id >= 1 && id <= VLAN_MAX;
}

function stationMac(text: string): Uint8Array {
  const mac = parseMac(text);
  if (mac === undefined) throw mistake(`${text}: write an address as 00:15:5d:0a:01:01`);
  if ((mac[0]! & 1) !== 0 || mac.every((byte) => byte === 0))
    throw mistake(`${text} is the address of a group, or of nobody`);
  return mac;
}

/** An address that is not taken yet. */
function dynamicMac(identity: string, index: number, taken: ReadonlySet<string>): Uint8Array {
  for (let attempt = 0; ; attempt++) {
    const hash = createHash("sha256").update(`${identity}\n${index}\n${attempt}`).digest();
    const mac = Uint8Array.of(...DYNAMIC_MAC_PREFIX, hash[0]!, hash[1]!, hash[2]!);
    if (!taken.has(formatMac(mac))) return mac;
  }
}
