import { createHash } from "node:crypto";
import {
  networkAdapterId,
  type NetworkConfig,
  type SwitchConfig,
  type Uplink,
} from "../network-config.js";
import type { NicConfig } from "../netvsp/nic-config.js";
import { formatMac, parseMac } from "../switch/mac-address.js";
import type { BandwidthOptions, VlanMode } from "../switch/switch-port.js";
import { VLAN_ID_MAX } from "../switch/vlan-membership.js";
import { HostOptionError } from "./host-options.js";

/** What the user of a program that boots machines may say of their network: options for `util.parseArgs`. */
export const networkOptions = {
  nic: { type: "string", multiple: true },
  switch: { type: "string", multiple: true },
} as const;

/**
 * The lines that explain them.
 *
 * @param own - what a program's adapters know besides, such as `[,stack=builtin]`.
 */
export const networkOptionsUsage = (own = ""): string =>
  `  --nic switch=NAME[,mac=ADDRESS][,vlan=ID|trunk][,spoof=on][,bandwidth=RATE]${own}
                           a network adapter at a switch; in a VLAN, with ,vlan=trunk in all of them; with ,spoof=on it
                           may send from other addresses, too; it sends at most so many bits per second, such as 100M
                           or 2.5G; may be repeated
  --switch NAME[,uplink=socket:PATH[,listen]|,uplink=tap:NAME[@NETNS]]
                           a virtual switch; an uplink leads to another network: over the unix socket, in the framing
                           of QEMU's stream netdev, to a switch, a QEMU or passt (with ,listen the other side
                           connects), or by a TAP to the network of Linux; both may be repeated
`;

/** Values as `util.parseArgs` returns them. */
export interface NetworkOptionValues {
  readonly nic?: readonly string[] | undefined;
  readonly switch?: readonly string[] | undefined;
}

/** A network adapter that is to be placed. */
export type PlacedNic = Omit<NicConfig, "instanceId" | "mac"> & Partial<Pick<NicConfig, "mac">>;

/** A network adapter as a command line has it. */
export interface NicOption {
  readonly nic: PlacedNic;
  /** The words that the program has besides ours, with their values. */
  readonly own: ReadonlyMap<string, string>;
}

/** What Hyper-V lets a machine have. */
export const NICS_MAX = 8;

/** Microsoft's: the beginning of every address that Hyper-V makes up. */
const DYNAMIC_MAC_PREFIX = [0x00, 0x15, 0x5d];

/**
 * The network of a machine; undefined if nothing is said of one. Throws `HostOptionError`.
 *
 * @param identity - See `placeNics`.
 */
export function parseNetworkOptions(
  values: NetworkOptionValues,
  identity: string,
): NetworkConfig | undefined {
  if (values.nic === undefined && values.switch === undefined) return undefined;
  return placeNics(
    (values.nic ?? []).map((text) => parseNic(text).nic),
    (values.switch ?? []).map(parseSwitch),
    identity,
  );
}

/**
 * An adapter: `switch=NAME[,mac=ADDRESS][,vlan=ID|trunk][,spoof=on|off][,bandwidth=RATE]`, in any order. Throws
 * `HostOptionError`.
 *
 * @param ownWords - that the program knows besides.
 */
export function parseNic(text: string, ownWords: readonly string[] = []): NicOption {
  const mistake = (detail: string): HostOptionError =>
    new HostOptionError(`--nic ${text}: ${detail}`);
  const words = new Map<string, string>();
  const own = new Map<string, string>();
  for (const word of text.split(",")) {
    const [name = "", ...rest] = word.split("=");
    const value = rest.join("=");
    const isOwn = ownWords.includes(name);
    if (!isOwn && !nicWords.includes(name))
      throw mistake(`'${name}' is none of ${[...nicWords, ...ownWords].join(", ")}`);
    if (value === "") throw mistake(`${name} has no value`);
    const known = isOwn ? own : words;
    if (known.has(name)) throw mistake(`${name} is said twice`);
    known.set(name, value);
  }
  const [lan, address, vlan, spoof, bandwidth] = nicWords.map((name) => words.get(name));
  if (lan === undefined) throw mistake("the switch is missing: switch=NAME");
  const mac = address === undefined ? undefined : parseMac(address);
  if (address !== undefined && mac === undefined)
    throw mistake(`${address}: write an address as 00:15:5d:0a:01:01`);
  if (spoof !== undefined && spoof !== "on" && spoof !== "off") throw mistake("spoof is on or off");
  const nic = {
    switch: lan,
    ...(mac && { mac }),
    ...(vlan !== undefined && { vlan: parseVlan(vlan, mistake) }),
    ...(spoof !== undefined && { allowMacSpoofing: spoof === "on" }),
    ...(bandwidth !== undefined && { bandwidth: parseBandwidth(bandwidth, mistake) }),
  };
  return { nic, own };
}

const nicWords: readonly string[] = ["switch", "mac", "vlan", "spoof", "bandwidth"];

const rateUnits: Readonly<Record<string, number>> = { "": 1, K: 1e3, M: 1e6, G: 1e9 };

/**
 * A switch: `NAME[,uplink=socket:PATH[,listen]|,uplink=tap:NAME[@NETNS]]...`. A path may have commas in it. Throws
 * `HostOptionError`.
 */
export function parseSwitch(text: string): SwitchConfig {
  const [name = "", ...uplinks] = text.split(/,(?=uplink=)/);
  if (name === "" || /[,=]/.test(name))
    throw new HostOptionError(
      `--switch ${text}: write it as NAME, NAME,uplink=socket:PATH or NAME,uplink=tap:NAME`,
    );
  return {
    name,
    ...(uplinks.length > 0 && { uplinks: uplinks.map((uplink) => parseUplink(uplink, text)) }),
  };
}

function parseUplink(text: string, option: string): Uplink {
  const [, path = "", listen] = /^uplink=socket:(.*?)(,listen)?$/s.exec(text) ?? [];
  if (path !== "") return { kind: "socket", path, ...(listen !== undefined && { listen: true }) };
  const tap = /^uplink=tap:(.+)$/s.exec(text)?.[1];
  const { name, netns } = parseTap(tap ?? "") ?? {};
  if (name === undefined)
    throw new HostOptionError(
      `--switch ${option}: an uplink is socket:PATH, socket:PATH,listen or tap:NAME[@NETNS]`,
    );
  return { kind: "tap", name, ...(netns !== undefined && { netns }) };
}

/** A TAP, and the network namespace that it is in: `NAME[@NETNS]`; undefined for what is none. */
export function parseTap(text: string): { name: string; netns?: string } | undefined {
  const [, name, netns] = /^([^@,]+)(?:@([^@,]+))?$/.exec(text) ?? [];
  return name === undefined ? undefined : { name, ...(netns !== undefined && { netns }) };
}

function parseVlan(text: string, mistake: (detail: string) => HostOptionError): VlanMode {
  if (text === "trunk") return { mode: "trunk", nativeId: 0 };
  const id = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (id < 1 || id > VLAN_ID_MAX) throw mistake(`vlan is 1 to ${VLAN_ID_MAX}, or trunk`);
  return { mode: "access", id };
}

function parseBandwidth(
  text: string,
  mistake: (detail: string) => HostOptionError,
): BandwidthOptions {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)([KMG]?)$/i.exec(text) ?? [];
  const bitsPerSecond = Number(number) * rateUnits[unit.toUpperCase()]!;
  if (!(bitsPerSecond > 0))
    throw mistake("bandwidth is bits per second, such as 64K, 100M or 2.5G");
  return { bitsPerSecond };
}

/**
 * Gives each adapter its instance id, and an address that Hyper-V could have made up if it has none: the same at each
 * boot of the same machine, and another one in another machine.
 *
 * Throws `HostOptionError` for what cannot be: too many adapters, an address that is of no single station or there
 * twice, a switch that is missing or there twice.
 *
 * @param identity - What the machine is known by.
 */
export function placeNics(
  nics: readonly PlacedNic[],
  switches: readonly SwitchConfig[],
  identity: string,
): NetworkConfig {
  if (nics.length > NICS_MAX)
    throw new HostOptionError(`a machine has at most ${NICS_MAX} network adapters`);
  const names = switches.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw new HostOptionError(`there are two switches ${twice}`);
  const taken = new Set<string>();
  const adapters = nics.map((nic, index): NicConfig => {
    if (!names.includes(nic.switch))
      throw new HostOptionError(
        `there is no switch ${nic.switch}: add --switch ${nic.switch}` +
          (names.length === 0 ? "" : `, or take one of ${names.join(", ")}`),
      );
    const mac = nic.mac ?? dynamicMac(identity, index, taken);
    const address = formatMac(mac);
    if ((mac[0]! & 1) !== 0 || mac.every((byte) => byte === 0))
      throw new HostOptionError(`${address} is the address of a group, or of nobody`);
    if (taken.has(address))
      throw new HostOptionError(`two network adapters have the address ${address}`);
    taken.add(address);
    return { ...nic, instanceId: networkAdapterId(index), mac };
  });
  return { switches, adapters };
}

/** An address that is not taken yet. */
function dynamicMac(identity: string, index: number, taken: ReadonlySet<string>): Uint8Array {
  for (let attempt = 0; ; attempt++) {
    const hash = createHash("sha256").update(`${identity}\n${index}\n${attempt}`).digest();
    const mac = Uint8Array.of(...DYNAMIC_MAC_PREFIX, hash[0]!, hash[1]!, hash[2]!);
    if (!taken.has(formatMac(mac))) return mac;
  }
}
