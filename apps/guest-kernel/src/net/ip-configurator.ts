import { KvpError, type IpConfigurator } from "@hyperv-is/hv-kvp";
import {
  isIpv4,
  parseAdapterGuid,
  parseIpAddress,
  prefixMask,
  type IpNetwork,
  type IpSettings,
} from "@hyperv-is/hv-kvp/protocol";
import { formatAddress, formatMac, maskLength } from "./addresses.js";
import type { GuestNetwork } from "./guest-network.js";
import type { NetworkInterface } from "./network-interface.js";

/** An interface that the host knows. */
export interface HostAdapter {
  /** Of its channel: lower case, no braces. */
  readonly instanceId: string;
  readonly interface: NetworkInterface;
}

const number = (address: Uint8Array): number =>
  address.reduce((value, byte) => value * 256 + byte, 0);
const bytes = (address: number): Uint8Array => parseIpAddress(formatAddress(address))!;

/** What keeps addresses from one boot to the next, by the name of their interface. */
export interface KeptNetwork {
  read(name: string): IpSettings | undefined;
  /** Throws `ERR_KVP_NETWORK`. */
  keep(name: string, settings: IpSettings): void;
}

/** What the configurator of a stack needs. */
export interface StackConfiguratorOptions {
  readonly network: GuestNetwork;
  /** What the host may ask about, at any time. */
  readonly adapters: () => readonly HostAdapter[];
  /** Without it, addresses last as long as the guest runs. */
  readonly kept?: KeptNetwork | undefined;
  /** Gets a line about what cannot be restored. */
  readonly log?: (line: string) => void;
}

/**
 * The guest's own stack, as the host reads and sets its addresses. The stack knows IPv4 only, and sends nobody to a DNS
 * server that was set: settings with IPv6 are refused, DNS servers are there to be read back.
 */
export class StackConfigurator implements IpConfigurator {
  readonly #options: StackConfiguratorOptions;
  readonly #network: GuestNetwork;
  readonly #dnsServers = new Map<NetworkInterface, IpSettings["dnsServers"]>();

  constructor(options: StackConfiguratorOptions) {
    this.#options = options;
    this.#network = options.network;
  }

  /** The name of the interface whose channel has an instance GUID. */
  nameOf(instanceId: string): string | undefined {
    return this.#options.adapters().find((one) => one.instanceId === instanceId)?.interface.name;
  }

  read(mac: string): Promise<IpSettings | undefined> {
    const found = this.#options
      .adapters()
      .find(
        ({ interface: one }) => formatMac(one.device.macAddress).toUpperCase() === mac,
      )?.interface;
    return Promise.resolve(found && this.#settings(found));
  }

  async apply(adapterId: string, settings: IpSettings): Promise<boolean> {
    const guid = parseAdapterGuid(adapterId);
    const { adapters, kept } = this.#options;
    const target = adapters().find(
      ({ instanceId, interface: { name } }) => name === adapterId || `{${instanceId}}` === guid,
    )?.interface;
    if (target === undefined) return false;
    const { addresses, gateways } = settings;
    const all = [...addresses.map(({ address }) => address), ...gateways];
    if (!all.every(isIpv4))
      throw new KvpError("ERR_KVP_NETWORK", `${target.name}: this guest has no IPv6`);
    // Kept first: what fails now is at least there after the next boot.
    kept?.keep(target.name, settings);
    try {
      await this.#use(target, settings);
    } catch (error) {
      const { message } = error as Error;
      throw new KvpError("ERR_KVP_NETWORK", `${target.name}: ${message}`, { cause: error });
    }
    return true;
  }

  /** Gives an interface that has come what is kept of it, as rc does at boot. Never rejects. */
  async restore(target: NetworkInterface): Promise<void> {
    const { kept, log } = this.#options;
    const settings = kept?.read(target.name);
    if (settings === undefined) return;
    const { addresses, gateways } = settings;
    try {
      await this.#use(target, {
        ...settings,
        addresses: addresses.filter(({ address }) => isIpv4(address)),
        gateways: gateways.filter(isIpv4),
      });
    } catch (error) {
      log?.(`${target.name}: ${(error as Error).message}`);
    }
  }

  async #use(target: NetworkInterface, settings: IpSettings): Promise<void> {
    const { dhcp, addresses, gateways, dnsServers } = settings;
    await this.#set(target, dhcp ? [] : addresses, dhcp ? [] : gateways);
    this.#dnsServers.set(target, dnsServers);
    if (dhcp) this.#network.startDhcp(target, () => undefined);
  }

  async #set(
    target: NetworkInterface,
    addresses: readonly IpNetwork[],
    gateways: readonly Uint8Array[],
  ): Promise<void> {
    const { routes } = this.#network.stack;
    this.#network.releaseDhcp(target, () => undefined);
    // A router of networks that go away would be in the way of the next one.
    const router = routes.defaultGateway;
    if (router !== undefined && routes.find(router)?.interface === target) routes.deleteDefault();
    for (const { address } of [...target.addresses]) target.removeAddress(address);
    for (const { address, prefixBits } of addresses)
      target.addAddress(number(address), number(prefixMask(prefixBits)));
    await target.setUp(true);
    const [gateway] = gateways;
    if (gateway === undefined) return;
    routes.deleteDefault();
    routes.addDefault(number(gateway));
  }

  #settings(found: NetworkInterface): IpSettings {
    const { routes } = this.#network.stack;
    const router = routes.defaultGateway;
    const isOurs = router !== undefined && routes.find(router)?.interface === found;
    const client = this.#network.dhcpClient(found);
    return {
      dhcp: client !== undefined,
      addresses: found.addresses.map(({ address, mask }) => ({
        address: bytes(address),
        prefixBits: maskLength(mask) ?? 32,
      })),
      gateways: isOurs ? [bytes(router)] : [],
      dnsServers: client?.lease?.nameServers.map(bytes) ?? this.#dnsServers.get(found) ?? [],
    };
  }
}
