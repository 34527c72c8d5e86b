import { existsSync, lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { KvpError } from "../errors.js";
import type { IpConfigurator } from "../ip-configurator.js";
import {
  editResolvConf,
  isInterfaceName,
  parseIpRouters,
  parseResolvConf,
} from "../network-files.js";
import {
  describeNetworks,
  formatIpAddress,
  formatIpTexts,
  isIpv4,
  parseAdapterGuid,
  parseIpAddress,
  parseIpTexts,
  type IpNetwork,
  type IpSettings,
  type IpTexts,
} from "../protocol/index.js";
import { readText, replaceText, runProgram, type RunProgram } from "./system-files.js";

/** What of the system may be another one: for tests. */
export interface LinuxNetworkOptions {
  /** Where settings are kept: beside the pools. */
  readonly directory: string;
  readonly run?: RunProgram;
  /** Directory below which `sys/class/net` and `etc/resolv.conf` are. */
  readonly root?: string;
}

/** Settings of adapters by their GUID, as the daemon keeps them. */
type KeptSettings = Readonly<Record<string, { readonly dhcp: boolean } & IpTexts>>;

interface IpAddressEntry {
  readonly local?: string;
  readonly prefixlen?: number;
  readonly scope?: string;
  readonly dynamic?: boolean;
}

/**
 * Linux's network, by `ip`. Distributions keep addresses in many ways, and this needs none of them: the daemon keeps
 * them itself, in `ip-settings.json` beside the pools, and `restore` sets them when it starts.
 */
export class LinuxNetwork implements IpConfigurator {
  readonly #run: RunProgram;
  readonly #root: string;
  readonly #kept: string;

  constructor(options: LinuxNetworkOptions) {
    this.#run = options.run ?? runProgram;
    this.#root = options.root ?? "/";
    this.#kept = join(options.directory, "ip-settings.json");
  }

  async read(mac: string): Promise<IpSettings | undefined> {
    const lower = mac.toLowerCase();
    const name = this.#interfaces().find(
      (one) => readText(join(this.#classNet(), one, "address")).trim() === lower,
    );
    if (name === undefined) return undefined;
    const [device] = JSON.parse(await this.#ip("-j", "address", "show", "dev", name)) as [
      { readonly addr_info?: readonly IpAddressEntry[] }?,
    ];
    const entries = device?.addr_info ?? [];
    const addresses = entries.flatMap(({ local = "", prefixlen = -1, scope }): IpNetwork[] => {
      const address = parseIpAddress(local);
      return address === undefined || scope === "link" ? [] : [{ address, prefixBits: prefixlen }];
    });
    const routes = await Promise.all(
      ["-4", "-6"].map((family) => this.#ip(family, "route", "show", "default", "dev", name)),
    );
    return {
      dhcp: entries.some(({ local = "", dynamic }) => dynamic === true && !local.includes(":")),
      // The kernel lists IPv6 addresses newest first.
      addresses: [
        ...addresses.filter(({ address }) => isIpv4(address)),
        ...addresses.filter(({ address }) => !isIpv4(address)).reverse(),
      ],
      gateways: routes.flatMap(parseIpRouters),
      dnsServers: parseResolvConf(readText(this.#resolvConf())),
    };
  }

  async apply(adapterId: string, settings: IpSettings): Promise<boolean> {
    const guid = parseAdapterGuid(adapterId);
    const name = guid === undefined ? undefined : this.#interfaceOf(guid);
    if (guid === undefined || name === undefined) return false;
    const kept = { ...this.#read(), [guid]: { dhcp: settings.dhcp, ...formatIpTexts(settings) } };
    replaceText(this.#kept, `${JSON.stringify(kept, undefined, 2)}\n`);
    await this.#set(name, settings);
    return true;
  }

  /** Sets what is kept of the interfaces that are there: after a boot. @returns What was set, as lines for a log. */
  async restore(): Promise<string[]> {
    const lines: string[] = [];
    for (const [guid, { dhcp, ...texts }] of Object.entries(this.#read())) {
      const settings = parseIpTexts(texts, dhcp);
      const name = this.#interfaceOf(guid);
      if (settings === undefined || name === undefined) continue;
      await this.#set(name, settings);
      lines.push(`${name}: ${dhcp ? "DHCP" : describeNetworks(settings.addresses)}`);
    }
    return lines;
  }

  async #set(name: string, settings: IpSettings): Promise<void> {
    const { dhcp, addresses, gateways, dnsServers } = settings;
    await this.#ip("address", "flush", "dev", name, "scope", "global");
    await this.#ip("link", "set", "dev", name, "up");
    for (const network of addresses)
      if (!dhcp || !isIpv4(network.address))
        await this.#ip("address", "add", describeNetworks([network]), "dev", name);
    for (const gateway of gateways) {
      if (dhcp && isIpv4(gateway)) continue;
      const family = isIpv4(gateway) ? "-4" : "-6";
      await this.#ip(
        family,
        "route",
        "replace",
        "default",
        "via",
        formatIpAddress(gateway),
        "dev",
        name,
      );
    }
    if (dhcp) await this.#startDhcp(name);
    if (dnsServers.length > 0) await this.#setDns(name, settings);
  }

  async #startDhcp(name: string): Promise<void> {
    const client = ["/sbin/dhclient", "/usr/sbin/dhclient"].find((path) =>
      existsSync(join(this.#root, path)),
    );
    if (client === undefined)
      throw new KvpError("ERR_KVP_NETWORK", `${name}: there is no dhclient to ask for an address`);
    await this.#run(client, ["-nw", name]);
  }

  async #setDns(name: string, { dnsServers }: IpSettings): Promise<void> {
    const path = this.#resolvConf();
    // A link leads to the file of a resolver that would write over it.
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true)
      await this.#run("/usr/bin/resolvectl", ["dns", name, ...dnsServers.map(formatIpAddress)]);
    else replaceText(path, editResolvConf(readText(path), dnsServers));
  }

  #ip(...args: string[]): Promise<string> {
    return this.#run("/sbin/ip", args);
  }

  #read(): KeptSettings {
    try {
      return JSON.parse(readText(this.#kept)) as KeptSettings;
    } catch {
      return {};
    }
  }

  #interfaceOf(guid: string): string | undefined {
    return this.#interfaces().find((name) => {
      const found = readText(join(this.#classNet(), name, "device/device_id")).trim();
      return parseAdapterGuid(found) === guid;
    });
  }

  #interfaces(): string[] {
    const directory = this.#classNet();
    return existsSync(directory) ? readdirSync(directory).filter(isInterfaceName) : [];
  }

  #classNet(): string {
    return join(this.#root, "sys/class/net");
  }

  #resolvConf(): string {
    return join(this.#root, "etc/resolv.conf");
  }
}
