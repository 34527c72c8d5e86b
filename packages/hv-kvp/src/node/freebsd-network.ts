import type { IpConfigurator } from "../ip-configurator.js";
import { ifconfigText, isInterfaceName, parseNetstatRouters } from "../network-files.js";
import { formatIpAddress, isIpv4, type IpNetwork, type IpSettings } from "../protocol/index.js";
import { FreebsdFiles } from "./freebsd-files.js";
import { interfaceByMac, interfaceNetworks } from "./interfaces.js";
import { runProgram, type RunProgram } from "./system-files.js";

const ifconfig = "/sbin/ifconfig";
const route = "/sbin/route";

/** What of the system may be another one: for tests. */
export interface FreebsdNetworkOptions {
  readonly run?: RunProgram;
  /** Directory below which `etc/rc.conf` and `etc/resolv.conf` are. */
  readonly root?: string;
  readonly networks?: (name: string) => readonly IpNetwork[];
}

/** FreeBSD's network: `ifconfig` and `route` now, `rc.conf` and `resolv.conf` for the next boot. */
export class FreebsdNetwork implements IpConfigurator {
  readonly #run: RunProgram;
  readonly #files: FreebsdFiles;
  readonly #networks: (name: string) => readonly IpNetwork[];

  constructor(options: FreebsdNetworkOptions = {}) {
    this.#run = options.run ?? runProgram;
    this.#files = new FreebsdFiles(options.root);
    this.#networks = options.networks ?? interfaceNetworks;
  }

  async read(mac: string): Promise<IpSettings | undefined> {
    const name = interfaceByMac(mac);
    if (name === undefined) return undefined;
    const routes = await this.#run("/usr/bin/netstat", ["-rn"]);
    return {
      dhcp: this.#files.hasDhcp(name),
      addresses: interfaceNetworks(name),
      gateways: parseNetstatRouters(routes, name),
      dnsServers: this.#files.nameServers,
    };
  }

  async apply(name: string, settings: IpSettings): Promise<boolean> {
    const names = (await this.#run(ifconfig, ["-l"])).trim().split(/\s+/);
    if (!isInterfaceName(name) || !names.includes(name)) return false;
    // Kept first: what fails now is at least there after the next boot.
    this.#files.keep(name, settings);
    for (const { address } of this.#networks(name)) {
      const family = isIpv4(address) ? "inet" : "inet6";
      await this.#run(ifconfig, [name, family, formatIpAddress(address), "-alias"]);
    }
    for (const network of settings.addresses) {
      if (settings.dhcp && isIpv4(network.address)) continue;
      await this.#run(ifconfig, [name, ...ifconfigText(network).split(" "), "alias"]);
    }
    await this.#run(ifconfig, [name, "up"]);
    if (settings.dhcp) await this.#run("/usr/sbin/service", ["dhclient", "onerestart", name]);
    for (const gateway of settings.gateways) {
      const isV4 = isIpv4(gateway);
      if (settings.dhcp && isV4) continue;
      const family = isV4 ? "-inet" : "-inet6";
      // There may be none to delete.
      await this.#run(route, ["-n", "delete", family, "default"]).catch(() => undefined);
      await this.#run(route, ["-n", "add", family, "default", formatIpAddress(gateway)]);
    }
    return true;
  }
}
