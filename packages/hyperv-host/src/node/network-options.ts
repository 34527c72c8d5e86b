import {
  networkAdapterId,
  networkAdapterMac,
  type NetworkConfig,
  type SocketUplink,
  type SwitchConfig,
} from "../network-config.js";
import type { NicConfig } from "../netvsp/nic-config.js";
import { parseMac } from "../switch/mac-address.js";
import type { VlanMode } from "../switch/switch-port.js";
import { VLAN_ID_MAX } from "../switch/vlan-membership.js";
import { HostOptionError } from "./host-options.js";

/** What the user of a program that boots machines may say of their network: options for `util.parseArgs`. */
export const networkOptions = {
  nic: { type: "string", multiple: true },
  switch: { type: "string", multiple: true },
} as const;

/** The lines that explain them. */
export const networkOptionsUsage = `  --nic switch=NAME[,mac=ADDRESS][,vlan=ID|trunk][,spoof=on]  a network adapter at a switch; in a VLAN, with ,vlan=trunk in
                           all of them; with ,spoof=on it may send from other addresses, too
  --switch NAME[,uplink=socket:PATH[,listen]]  a virtual switch; over the unix socket it reaches another one, a QEMU or
                           passt, in the framing of QEMU's stream netdev; with ,listen the other side connects
`;

/** Values as `util.parseArgs` returns them. */
export interface NetworkOptionValues {
  readonly nic?: readonly string[] | undefined;
  readonly switch?: readonly string[] | undefined;
}

/** A network adapter as a command line has it. */
export interface NicOption {
  readonly nic: Pick<NicConfig, "switch" | "allowMacSpoofing" | "vlan"> &
    Partial<Pick<NicConfig, "mac">>;
  /** The words that the program has besides ours, with their values. */
  readonly own: ReadonlyMap<string, string>;
}

/** The network of a machine; undefined if nothing is said of one. Throws `HostOptionError`. */
export function parseNetworkOptions(values: NetworkOptionValues): NetworkConfig | undefined {
  if (values.nic === undefined && values.switch === undefined) return undefined;
  return placeNics(
    (values.nic ?? []).map((text) => parseNic(text)),
    (values.switch ?? []).map(parseSwitch),
  );
}

/**
 * An adapter: `switch=NAME[,mac=ADDRESS][,vlan=ID|trunk][,spoof=on|off]`, in any order. Throws `HostOptionError`.
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
  const [lan, address, vlan, spoof] = nicWords.map((name) => words.get(name));
  if (lan === undefined) throw mistake("the switch is missing: switch=NAME");
  const mac = address === undefined ? undefined : parseMac(address);
  if (address !== undefined && (mac === undefined || (mac[0]! & 1) !== 0))
    throw mistake(`${address} is no address of one station, such as 00:15:5d:00:00:0a`);
  if (spoof !== undefined && spoof !== "on" && spoof !== "off") throw mistake("spoof is on or off");
  const nic = {
    switch: lan,
    ...(mac && { mac }),
    ...(vlan !== undefined && { vlan: parseVlan(vlan, mistake) }),
    ...(spoof !== undefined && { allowMacSpoofing: spoof === "on" }),
  };
  return { nic, own };
}

const nicWords: readonly string[] = ["switch", "mac", "vlan", "spoof"];

/** A switch: `NAME[,uplink=socket:PATH[,listen]]`. The path may have commas in it. Throws `HostOptionError`. */
export function parseSwitch(text: string): SwitchConfig {
  const match = /^([^,]*)(?:,uplink=(.*))?$/s.exec(text);
  const [, name = "", uplink] = match ?? [];
  if (name === "")
    throw new HostOptionError(
      `--switch ${text}: write it as NAME or NAME,uplink=socket:PATH, with ,listen if the other side connects`,
    );
  return { name, ...(uplink !== undefined && { uplinks: [parseUplink(uplink, text)] }) };
}

function parseUplink(text: string, option: string): SocketUplink {
  const [, path = "", listen] = /^socket:(.*?)(,listen)?$/s.exec(text) ?? [];
  if (path === "")
    throw new HostOptionError(`--switch ${option}: an uplink is socket:PATH or socket:PATH,listen`);
  return { kind: "socket", path, ...(listen !== undefined && { listen: true }) };
}

function parseVlan(text: string, mistake: (detail: string) => HostOptionError): VlanMode {
  if (text === "trunk") return { mode: "trunk", nativeId: 0 };
  const id = /^\d{1,4}$/.test(text) ? Number(text) : -1;
  if (id < 0 || id > VLAN_ID_MAX) throw mistake(`vlan is 0 to ${VLAN_ID_MAX}, or trunk`);
  return { mode: "access", id };
}

/**
 * Gives each adapter its instance id, and an address if it has none. Throws `HostOptionError` if a switch is missing
 * or there twice.
 */
export function placeNics(
  nics: readonly Pick<NicOption, "nic">[],
  switches: readonly SwitchConfig[],
): NetworkConfig {
  const names = new Set<string>();
  for (const { name } of switches) {
    if (names.has(name)) throw new HostOptionError(`--switch ${name}: there are two of that name`);
    names.add(name);
  }
  const adapters = nics.map(({ nic }, index) => ({
    ...nic,
    instanceId: networkAdapterId(index),
    mac: nic.mac ?? networkAdapterMac(index),
  }));
  const lost = adapters.find((adapter) => !names.has(adapter.switch));
  if (lost !== undefined)
    throw new HostOptionError(
      `--nic switch=${lost.switch}: there is no such switch; --switch ${lost.switch} makes it`,
    );
  return { switches, adapters };
}
