import {
  MAC_BYTES,
  classMask,
  formatAddress,
  formatMac,
  isMacAt,
  maskLength,
  networkBroadcast,
  parseAddress,
  prefixMask,
} from "../../net/addresses.js";
import { formatFlags, formatOptions, optionWords } from "../../net/interface-flags.js";
import { NetworkError } from "../../net/network-error.js";
import type { NetworkInterface } from "../../net/network-interface.js";
import type { Random } from "../../net/random.js";
import type { GuestSystem } from "../../kernel/guest-system.js";
import { CommandError, UsageError, type Command, type CommandContext } from "../command.js";

/** The interface of a name; throws in the words of `ifconfig`. */
export function findInterface(system: GuestSystem, name: string): NetworkInterface {
  const found = system.network.stack.find(name);
  if (found === undefined) throw new CommandError(`interface ${name} does not exist`);
  return found;
}

/** @param withCapabilities - Shows what could be switched on, too. */
function describe(shown: NetworkInterface, withCapabilities: boolean): string[] {
  const { device, macAddress, addresses, flags, isLoopback } = shown;
  const lines = [`${shown.name}: flags=${formatFlags(flags)} metric 0 mtu ${device.mtu}`];
  if (device.options !== 0) lines.push(`\toptions=${formatOptions(device.options)}`);
  if (withCapabilities) lines.push(`\tcapabilities=${formatOptions(device.capabilities)}`);
  if (!isLoopback) lines.push(`\tether ${formatMac(macAddress)}`);
  if (!isMacAt(macAddress, 0, device.macAddress))
    lines.push(`\thwaddr ${formatMac(device.macAddress)}`);
  for (const { address, mask } of addresses) {
    const broadcast = isLoopback
      ? ""
      : ` broadcast ${formatAddress(networkBroadcast(address, mask))}`;
    lines.push(`\tinet ${formatAddress(address)} netmask 0x${mask.toString(16)}${broadcast}`);
  }
  if (isLoopback) lines.push("\tgroups: lo");
  if (device.media !== "")
    lines.push(
      `\tmedia: ${device.media}`,
      `\tstatus: ${device.hasLink && shown.isUp ? "active" : "no carrier"}`,
    );
  if (withCapabilities && device.media !== "")
    lines.push("\tsupported media:", "\t\tmedia autoselect");
  // There is no IPv6.
  lines.push("\tnd6 options=29<PERFORMNUD,IFDISABLED,AUTO_LINKLOCAL>");
  return lines;
}

/** What the words of a command line say about an address. */
interface AddressChange {
  address?: number;
  mask?: number;
  kind: "replace" | "add" | "delete";
}

/** `192.0.2.1/24`, or without a length. */
function parsePrefix(text: string, change: AddressChange): void {
  const [host = "", length] = text.split("/");
  if (length !== undefined && (!/^\d+$/.test(length) || Number(length) > 32))
    throw new CommandError(
      `${text}: bad value (width ${/^\d+$/.test(length) ? "too large" : "invalid"})`,
    );
  const address = parseAddress(host);
  if (address === undefined) throw new CommandError(`${host}: bad value`);
  change.address = address;
  if (length !== undefined) change.mask = prefixMask(Number(length));
}

/** `00:15:5d:0a:01:01`, with leading zeros or without. */
function parseMac(text: string): Uint8Array {
  if (!/^[\da-f]{1,2}(:[\da-f]{1,2}){5}$/i.test(text))
    throw new CommandError("malformed link-level address");
  return Uint8Array.from(text.split(":"), (part) => Number.parseInt(part, 16));
}

/** An address that nobody has been given: of one station, and locally administered. */
function randomMac(random: Random): Uint8Array {
  const mac = new Uint8Array(MAC_BYTES);
  random.fill(mac);
  mac[0] = (mac[0]! & 0xfc) | 0x02;
  return mac;
}

/** `255.255.255.0` or `0xffffff00`. */
function parseMask(text: string): number {
  const mask = /^0x[0-9a-f]{1,8}$/i.test(text) ? Number(text) : parseAddress(text);
  if (mask === undefined || maskLength(mask) === undefined)
    throw new CommandError(`${text}: bad value`);
  return mask;
}

/** Does what FreeBSD's ioctl does, and names it when it fails. */
async function attempt(what: string, work: () => void | Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw new CommandError(`${what}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function changeAddress(
  target: NetworkInterface,
  { address, mask, kind }: AddressChange,
  warn: (line: string) => void,
): Promise<void> {
  if (address === undefined) return;
  if (kind === "delete") {
    await attempt("ioctl (SIOCDIFADDR)", () => target.removeAddress(address));
    return;
  }
  if (mask === undefined && !target.isLoopback) {
    warn("ifconfig: WARNING: setting interface address without mask is deprecated,");
    warn("default mask may not be correct.");
  }
  await attempt("ioctl (SIOCAIFADDR)", async () => {
    const [first] = target.addresses;
    if (kind === "replace" && first !== undefined) target.removeAddress(first.address);
    target.addAddress(address, mask ?? classMask(address));
    await target.setUp(true);
  });
}

async function change(
  target: NetworkInterface,
  words: readonly string[],
  random: Random,
  warn: (line: string) => void,
): Promise<void> {
  const wanted: AddressChange = { kind: "replace" };
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    const value = (): string => {
      const next = words[++at];
      if (next === undefined) throw new CommandError(`'${word}' requires argument`);
      return next;
    };
    switch (word) {
      case "inet":
        parsePrefix(value(), wanted);
        break;
      case "netmask":
        wanted.mask = parseMask(value());
        break;
      case "alias":
      case "add":
        wanted.kind = "add";
        break;
      case "-alias":
      case "delete":
      case "remove":
        wanted.kind = "delete";
        break;
      case "up":
      case "down":
        await attempt(word, () => target.setUp(word === "up"));
        break;
      case "promisc":
      case "-promisc":
        target.setPromiscuous(word === "promisc");
        break;
      case "ether":
      case "lladdr":
      case "link": {
        const text = value();
        const mac = text === "random" ? randomMac(random) : parseMac(text);
        await attempt("ioctl (SIOCAIFADDR)", () => target.setMacAddress(mac));
        break;
      }
      case "mtu": {
        const mtu = Number(value());
        await attempt("ioctl (set mtu)", () => {
          // The smallest that IPv4 allows (RFC 791).
          if (!Number.isInteger(mtu) || mtu < 68) throw new NetworkError("EINVAL");
          return target.device.setMtu(mtu);
        });
        break;
      }
      default: {
        const option = optionWords[word.replace(/^-/, "")];
        if (option !== undefined) {
          const { device } = target;
          device.setOptions(
            word.startsWith("-") ? device.options & ~option : device.options | option,
          );
          break;
        }
        if (parseAddress(word.split("/")[0]!) === undefined)
          throw new CommandError(`${word}: bad value`);
        parsePrefix(word, wanted);
      }
    }
  }
  await changeAddress(target, wanted, warn);
}

export const ifconfig: Command = {
  name: "ifconfig",
  summary: "show and configure network interfaces",
  usage:
    "ifconfig [-almu] [interface]\nifconfig interface [inet] address[/prefixlength] [netmask mask] [alias | -alias]\nifconfig interface [up | down] [mtu n] [[-]promisc]\nifconfig interface ether address | random\nifconfig interface [-]txcsum | [-]rxcsum | [-]tso4 | [-]tso6 | [-]txcsum6",
  async run({ args, system, print, warn }: CommandContext) {
    const { stack } = system.network;
    const flags = args[0]?.startsWith("-") === true ? args[0] : "";
    const [name, ...words] = flags === "" ? args : args.slice(1);
    if (!/^(-[almu]+)?$/.test(flags)) throw new UsageError();
    const withCapabilities = flags.includes("m");
    if (name === undefined) {
      const shown = stack.interfaces.filter(({ isUp }) => isUp || !flags.includes("u"));
      if (flags.includes("l")) await print(shown.map((each) => each.name).join(" "));
      else
        for (const each of shown)
          for (const line of describe(each, withCapabilities)) await print(line);
      return 0;
    }
    if (flags !== "" && (flags !== "-m" || words.length > 0)) throw new UsageError();
    const target = findInterface(system, name);
    if (words.length > 0) await change(target, words, stack.random, warn);
    else for (const line of describe(target, withCapabilities)) await print(line);
    return 0;
  },
};
