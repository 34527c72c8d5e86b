import { formatAddress, formatMac, maskLength } from "../../net/addresses.js";
import type { NetworkInterface } from "../../net/network-interface.js";
import type { GuestSystem } from "../../kernel/guest-system.js";
import { CommandError, UsageError, getopt, type Command } from "../command.js";
import { protocolStatistics } from "./netstat-protocols.js";

/** One row of `netstat -i`: numbers that there are not show as a dash. */
interface Row {
  readonly name: string;
  readonly mtu: number | undefined;
  readonly network: string;
  readonly address: string;
  readonly received: number;
  readonly receiveErrors: number | undefined;
  readonly receiveDrops: number | undefined;
  readonly receivedBytes: number;
  readonly sent: number;
  readonly sendErrors: number | undefined;
  readonly sentBytes: number;
  readonly collisions: number | undefined;
}

async function rowsOf(shown: NetworkInterface): Promise<Row[]> {
  const { device, index, addresses, macAddress, isUp, isLoopback } = shown;
  const counters = await device.readCounters();
  const name = isUp ? shown.name : `${shown.name}*`;
  return [
    {
      name,
      mtu: device.mtu,
      network: `<Link#${index}>`,
      address: isLoopback ? shown.name : formatMac(macAddress),
      received: counters.receivedPackets,
      receiveErrors: counters.receiveErrors,
      receiveDrops: counters.receiveDrops,
      receivedBytes: counters.receivedBytes,
      sent: counters.sentPackets,
      sendErrors: counters.sendErrors,
      sentBytes: counters.sentBytes,
      collisions: 0,
    },
    ...addresses.map(({ address, mask, received, sent }) => ({
      name,
      mtu: undefined,
      network: `${formatAddress((address & mask) >>> 0)}/${maskLength(mask) ?? 32}`,
      address: formatAddress(address),
      received: received.packets,
      receiveErrors: undefined,
      receiveDrops: undefined,
      receivedBytes: received.bytes,
      sent: sent.packets,
      sendErrors: undefined,
      sentBytes: sent.bytes,
      collisions: undefined,
    })),
  ];
}

/** Columns are as wide as their widest entry, but not narrower than this. */
const widths = { name: 5, network: 8, address: 8, packets: 8, errors: 5, bytes: 10 };

function interfaceTable(rows: readonly Row[], withBytes: boolean): string[] {
  const widest = (least: number, texts: readonly string[]): number =>
    Math.max(least, ...texts.map((text) => text.length));
  const numbers = (least: number, values: readonly (number | undefined)[]): number =>
    Math.max(least, ...values.map((value) => String(value ?? "-").length + 1));
  const name = widest(
    widths.name,
    rows.map((row) => row.name),
  );
  const network = widest(
    widths.network,
    rows.map((row) => row.network),
  );
  const address = widest(
    widths.address,
    rows.map((row) => row.address),
  );
  const packets = numbers(
    widths.packets,
    rows.flatMap((row) => [row.received, row.sent]),
  );
  const errors = numbers(
    widths.errors,
    rows.flatMap((row) => [row.receiveErrors, row.receiveDrops, row.collisions]),
  );
  const bytes = numbers(
    widths.bytes,
    rows.flatMap((row) => [row.receivedBytes, row.sentBytes]),
  );
  const line = (
    texts: readonly [string, string, string, string],
    counts: readonly (readonly [number, string | number | undefined])[],
  ): string =>
    [
      texts[0].padEnd(name),
      texts[1].padStart(5),
      `${texts[2].padEnd(network)} `,
      texts[3].padEnd(address),
      ...counts.map(([width, count]) => String(count ?? "-").padStart(width)),
    ].join(" ");
  const counts = <Value>(
    values: readonly [Value, Value, Value, Value, Value, Value, Value, Value],
  ) =>
    [
      [packets, values[0]],
      [errors, values[1]],
      [errors, values[2]],
      ...(withBytes ? [[bytes, values[3]] as const] : []),
      [packets, values[4]],
      [errors, values[5]],
      ...(withBytes ? [[bytes, values[6]] as const] : []),
      [errors, values[7]],
    ] as const;
  return [
    line(
      ["Name", "Mtu", "Network", "Address"],
      counts(["Ipkts", "Ierrs", "Idrop", "Ibytes", "Opkts", "Oerrs", "Obytes", "Coll"]),
    ),
    ...rows.map((row) =>
      line(
        [row.name, String(row.mtu ?? "-"), row.network, row.address],
        counts([
          row.received,
          row.receiveErrors,
          row.receiveDrops,
          row.receivedBytes,
          row.sent,
          row.sendErrors,
          row.sentBytes,
          row.collisions,
        ]),
      ),
    ),
  ];
}

function routeTable(system: GuestSystem): string[] {
  const line = (...[destination, gateway, flags, netif]: readonly string[]): string =>
    `${destination!.padEnd(18)} ${gateway!.padEnd(18)} ${flags!.padEnd(6)} ${netif!.padStart(12)}`;
  return [
    "Routing tables",
    "",
    "Internet:",
    `${line("Destination", "Gateway", "Flags", "Netif")} Expire`,
    ...system.network.stack.routes
      .list()
      .map(({ destination, gateway, flags, netif }) => line(destination, gateway, flags, netif)),
  ];
}

export const netstat: Command = {
  name: "netstat",
  summary: "show interfaces, routes and statistics",
  usage: "netstat -i | -I interface [-bn]\nnetstat -r [-n]\nnetstat -s [-p protocol]",
  async run({ args, system, print }) {
    const { flags, values, operands } = getopt(args, "birsnI:p:");
    const only = values.get("I");
    const protocol = values.get("p");
    const isInterfaces = flags.has("i") || only !== undefined;
    const wanted = [isInterfaces, flags.has("r"), flags.has("s")].filter(Boolean).length;
    if (operands.length > 0 || wanted !== 1) throw new UsageError();
    if (protocol !== undefined && !flags.has("s")) throw new UsageError();
    const { stack } = system.network;
    if (flags.has("s")) {
      const lines = protocolStatistics(stack, protocol);
      if (lines === undefined)
        throw new CommandError(`${protocol}: unknown or uninstrumented protocol`);
      for (const line of lines) await print(line);
      return 0;
    }
    const { interfaces } = stack;
    if (only !== undefined && !interfaces.some(({ name }) => name === only))
      throw new CommandError(`interface ${only} not found`);
    const shown = interfaces.filter(({ name }) => only === undefined || name === only);
    const lines = isInterfaces
      ? interfaceTable((await Promise.all(shown.map(rowsOf))).flat(), flags.has("b"))
      : routeTable(system);
    for (const line of lines) await print(line);
    return 0;
  },
};
