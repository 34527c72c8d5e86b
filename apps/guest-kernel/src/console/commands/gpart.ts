import { readPartitionTable, type PartitionTable } from "../../kernel/partitions.js";
import type { BlockDevice } from "../../kernel/block-device.js";
import { CommandError, UsageError, getopt, type Command } from "../command.js";

/** A size as FreeBSD prints it in three or four characters: `512K`, `2.0G`, `40G`. */
export function humanSize(sizeBytes: number): string {
  const units = ["B", "K", "M", "G", "T", "P"];
  let size = sizeBytes;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${unit > 0 && size < 9.95 ? size.toFixed(1) : size.toFixed(0)}${units[unit]!}`;
}

type NameColumn = "index" | "label" | "device";

async function show(
  device: BlockDevice,
  table: PartitionTable,
  column: NameColumn,
  print: (line?: string) => Promise<void>,
): Promise<void> {
  const { blockBytes } = device;
  const { firstBlock, lastBlock, scheme, partitions } = table;
  const rows: { first: number; blocks: number; name: string; text: string }[] = [];
  let at = firstBlock;
  const free = (until: number): void => {
    if (until > at) rows.push({ first: at, blocks: until - at, name: "", text: "- free -" });
  };
  for (const { index, firstBlock: first, blocks, type, label } of partitions) {
    free(first);
    const names: Record<NameColumn, string> = {
      index: String(index),
      device: `${device.name}${scheme === "GPT" ? "p" : "s"}${index}`,
      label: label === "" ? "(null)" : label,
    };
    const text = column === "label" ? names.label : type;
    rows.push({ first, blocks, name: names[column === "label" ? "index" : column], text });
    at = first + blocks;
  }
  free(lastBlock + 1);
  const total = lastBlock - firstBlock + 1;
  const width = String(lastBlock).length;
  const nameWidth = Math.max(device.name.length, ...rows.map(({ name }) => name.length));
  const line = (arrow: string, first: number, blocks: number, name: string, text: string): string =>
    `${arrow}${String(first).padStart(width)}  ${String(blocks).padStart(width)}  ${name.padStart(nameWidth)}  ${text}`;
  const size = humanSize(device.sizeBytes);
  const state = table.corrupt ? " [CORRUPT]" : "";
  await print(line("=>", firstBlock, total, device.name, `${scheme}  (${size})${state}`));
  for (const { first, blocks, name, text } of rows)
    await print(line("  ", first, blocks, name, `${text}  (${humanSize(blocks * blockBytes)})`));
  await print();
}

export const gpart: Command = {
  name: "gpart",
  summary: "show partition tables",
  usage: "gpart show [-lp] [geom ...]",
  verbs: ["show"],
  async run({ args, system, print }) {
    const [verb, ...rest] = args;
    if (verb !== "show") throw new UsageError(verb === undefined ? "" : `unknown command ${verb}`);
    const { flags, operands } = getopt(rest, "lp");
    const column = flags.has("l") ? "label" : flags.has("p") ? "device" : "index";
    const allocate = (bytes: number) => system.allocateBuffer(bytes);
    const names = operands.map((name) => name.replace(/^\/dev\//, ""));
    for (const name of names)
      if (!system.disks.some((disk) => disk.name === name))
        throw new CommandError(`No such geom: ${name}.`);
    for (const { name, device } of system.disks) {
      if (names.length > 0 && !names.includes(name)) continue;
      const table = await readPartitionTable(device, allocate);
      if (table !== undefined) await show(device, table, column, print);
      else if (names.includes(name)) throw new CommandError(`No such geom: ${name}.`);
    }
    return 0;
  },
};
