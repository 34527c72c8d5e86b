import { ANY_ADDRESS, formatAddress, maskLength } from "./addresses.js";
import { NetworkError } from "./network-error.js";
import type { InterfaceAddress, NetworkInterface } from "./network-interface.js";

/** Where packets for a destination go: out of `interface`, to `nextHop` on its link. */
export interface Route {
  readonly interface: NetworkInterface;
  readonly nextHop: number;
  /** Our own address that such packets have unless told; undefined when the interface has none. */
  readonly source: InterfaceAddress | undefined;
}

/** One line of `netstat -rn`. */
export interface RouteView {
  readonly destination: string;
  readonly gateway: string;
  /** `UGS`: up, by a gateway, static; H for a host. */
  readonly flags: string;
  readonly netif: string;
}

interface Listed {
  readonly address: number;
  readonly mask: number;
  readonly view: RouteView;
}

/** Routes to our own addresses and to the networks that we are on, and one to all others. */
export class RoutingTable {
  readonly #interfaces: () => readonly NetworkInterface[];
  #gateway: number | undefined;

  constructor(interfaces: () => readonly NetworkInterface[]) {
    this.#interfaces = interfaces;
  }

  /** The router for all that is not on a network of ours; undefined without one. */
  get defaultGateway(): number | undefined {
    return this.#gateway;
  }

  /** Throws `ENETUNREACH` if the gateway is on no network of ours, `EEXIST` if there is another one. */
  addDefault(gateway: number): void {
    if (this.#gateway === gateway) return;
    if (this.#gateway !== undefined) throw new NetworkError("EEXIST");
    const way = this.#connected(gateway);
    if (way === undefined || way.interface.isLoopback) throw new NetworkError("ENETUNREACH");
    this.#gateway = gateway;
  }

  deleteDefault(): void {
    this.#gateway = undefined;
  }

  /** The way to an address; undefined if there is none. */
  find(destination: number): Route | undefined {
    const connected = this.#connected(destination);
    if (connected !== undefined) return connected;
    return this.#gateway === undefined ? undefined : this.#connected(this.#gateway);
  }

  list(): RouteView[] {
    const listed: Listed[] = [];
    const gateway = this.#gateway;
    const way = gateway === undefined ? undefined : this.#connected(gateway);
    if (gateway !== undefined && way !== undefined)
      listed.push({
        address: ANY_ADDRESS,
        mask: 0,
        view: {
          destination: "default",
          gateway: formatAddress(gateway),
          flags: "UGS",
          netif: way.interface.name,
        },
      });
    const loopback = this.#loopback();
    for (const each of this.#interfaces()) {
      if (!each.isUp) continue;
      const link = `link#${each.index}`;
      for (const { address, mask } of each.addresses) {
        if (loopback !== undefined)
          listed.push({
            address,
            mask: 0xffff_ffff,
            view: {
              destination: formatAddress(address),
              gateway: `link#${loopback.index}`,
              flags: each.isLoopback ? "UH" : "UHS",
              netif: loopback.name,
            },
          });
        if (each.isLoopback || mask === 0xffff_ffff) continue;
        const network = (address & mask) >>> 0;
        const view = {
          destination: `${formatAddress(network)}/${maskLength(mask) ?? 32}`,
          gateway: link,
          flags: "U",
          netif: each.name,
        };
        listed.push({ address: network, mask, view });
      }
    }
    return listed
      .sort((left, right) => left.address - right.address || left.mask - right.mask)
      .map(({ view }) => view);
  }

  #loopback(): NetworkInterface | undefined {
    return this.#interfaces().find((each) => each.isLoopback && each.isUp);
  }

  /** The way to our own addresses, and to those on a network of ours with the longest prefix. */
  #connected(destination: number): Route | undefined {
    let best: NetworkInterface | undefined;
    let source: InterfaceAddress | undefined;
    for (const each of this.#interfaces()) {
      if (!each.isUp) continue;
      for (const own of each.addresses) {
        if (own.address === destination) {
          const loopback = this.#loopback();
          return loopback && { interface: loopback, nextHop: destination, source: own };
        }
        if (((own.address ^ destination) & own.mask) !== 0) continue;
        if (source !== undefined && source.mask >= own.mask) continue;
        best = each;
        source = own;
      }
    }
    return best && { interface: best, nextHop: destination, source };
  }
}
