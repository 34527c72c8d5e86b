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

/**
 * The guest's own stack, as the host reads and sets its addresses. They last as long as the guest runs, which has
 * nothing to keep them in. The stack knows IPv4 only, and sends nobody to a DNS server that was set: settings with
 * IPv6 are refused, DNS servers are kept to be read back.
 */
export class StackConfigurator implements IpConfigurator {
  readonly #network: GuestNetwork;
  readonly #adapters: () => readonly HostAdapter[];
  readonly #dnsServers = new Map<NetworkInterface, IpSettings["dnsServers"]>();

  /** @param adapters - What the host may ask about, at any time. */
  constructor(network: GuestNetwork, adapters: () => readonly HostAdapter[]) {
    this.#network = network;
    this.#adapters = adapters;
  }

  /** The name of the interface whose channel has an instance GUID. */
  nameOf(instanceId: string): string | undefined {
    return this.#adapters().find((one) => one.instanceId === instanceId)?.interface.name;
  }

  read(mac: string): Promise<IpSettings | undefined> {
    const found = this.#adapters().find(
      ({ interface: one }) => formatMac(one.device.macAddress).toUpperCase() === mac,
    )?.interface;
    return Promise.resolve(found && this.#settings(found));
  }

  async apply(adapterId: string, settings: IpSettings): Promise<boolean> {
    const guid = parseAdapterGuid(adapterId);
    const target = this.#adapters().find(
      ({ instanceId, interface: { name } }) => name === adapterId || `{${instanceId}}` === guid,
    )?.interface;
    if (target === undefined) return false;
    const { addresses, gateways, dhcp } = settings;
    const all = [...addresses.map(({ address }) => address), ...gateways];
    if (!all.every(isIpv4))
      throw new KvpError("ERR_KVP_NETWORK", `${target.name}: this guest has no IPv6`);
    try {
      await this.#set(target, dhcp ? [] : addresses, dhcp ? [] : gateways);
    } catch (error) {
      const { message } = error as Error;
      throw new KvpError("ERR_KVP_NETWORK", `${target.name}: ${message}`, { cause: error });
    }
    this.#dnsServers.set(target, settings.dnsServers);
    if (dhcp) this.#network.startDhcp(target, () => undefined);
    return true;
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
