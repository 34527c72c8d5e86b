import { formatAddress, formatMac, parseAddress } from "../../net/addresses.js";
import type { NetworkInterface } from "../../net/network-interface.js";
import type { GuestSystem } from "../../kernel/guest-system.js";
import { CommandError, UsageError, getopt, type Command } from "../command.js";

interface Shown {
  readonly address: number;
  readonly on: NetworkInterface;
  readonly line: string;
}

/** Neighbours and our own addresses, which are there for good. */
function table(system: GuestSystem, only: string | undefined): Shown[] {
  const shown: Shown[] = [];
  for (const on of system.network.stack.interfaces) {
    if (on.isLoopback || (only !== undefined && on.name !== only)) continue;
    const add = (address: number, mac: string | undefined, life: string): void =>
      void shown.push({
        address,
        on,
        line: `? (${formatAddress(address)}) at ${mac ?? "(incomplete)"} on ${on.name} ${life} [ethernet]`,
      });
    for (const { address } of on.addresses) add(address, formatMac(on.macAddress), "permanent");
    for (const { address, mac, expiresInMs } of on.arp.entries()) {
      const seconds = Math.floor(expiresInMs / 1_000);
      add(address, mac, seconds > 0 ? `expires in ${seconds} seconds` : "expired");
    }
  }
  return shown.sort((left, right) => left.address - right.address);
}

export const arp: Command = {
  name: "arp",
  summary: "show and delete what is known of neighbours",
  usage:
    "arp [-n] [-i interface] hostname\narp [-n] [-i interface] -a\narp -d hostname\narp -d [-i interface] -a",
  async run({ args, system, print }) {
    const { flags, values, operands } = getopt(args, "andi:");
    const shown = table(system, values.get("i"));
    const [host, ...rest] = operands;
    if (rest.length > 0 || flags.has("a") === (host !== undefined)) throw new UsageError();
    if (host === undefined) {
      for (const { address, on, line } of shown) {
        if (!flags.has("d")) await print(line);
        else if (on.arp.delete(address)) await deleted(formatAddress(address), address);
      }
      return 0;
    }
    const address = system.network.resolve(host) ?? parseAddress(host);
    if (address === undefined) throw new CommandError(`${host}: Unknown host`);
    const found = shown.filter((one) => one.address === address);
    if (flags.has("d")) {
      if (!found.some(({ on }) => on.arp.delete(address)))
        throw new CommandError(`delete ${host}: No such file or directory`);
      await deleted(host, address);
      return 0;
    }
    for (const { line } of found) await print(line);
    if (found.length > 0) return 0;
    await print(`${host} (${formatAddress(address)}) -- no entry`);
    return 1;

    function deleted(named: string, gone: number): Promise<void> {
      return print(`${named} (${formatAddress(gone)}) deleted`);
    }
  },
};
