import type { CamDisk, GuestSystem } from "../../kernel/guest-system.js";
import { CommandError, UsageError, getopt, type Command } from "../command.js";

const USAGE = `camcontrol devlist [-b] [-v]
camcontrol tur [device]
camcontrol inquiry [-DSR] [device]
camcontrol readcap [-bhHNsq] [device]`;

function find(system: GuestSystem, operands: readonly string[]): CamDisk {
  const [name = "da0", ...rest] = operands;
  if (rest.length > 0) throw new UsageError();
  const bare = name.replace(/^\/dev\//, "");
  const disk = system.disks.find((one) => one.name === bare || one.passName === bare);
  if (disk === undefined)
    throw new CommandError(
      `cam_lookup_pass: couldn't find any pass device for ${bare}: No such file or directory`,
    );
  return disk;
}

/** `<Msft Virtual Disk 1.0>`. */
const identity = ({ vendor, product, revision }: CamDisk): string =>
  `<${[vendor, product, revision].filter((part) => part !== "").join(" ")}>`;

async function devlist(
  system: GuestSystem,
  args: readonly string[],
  print: (line: string) => Promise<void>,
): Promise<void> {
  const { flags, operands } = getopt(args, "bv");
  if (operands.length > 0) throw new UsageError();
  for (const bus of system.buses) {
    const line = `scbus${bus.scbus} on ${bus.simName} bus 0`;
    if (flags.has("b")) await print(line);
    else if (flags.has("v")) await print(`${line}:`);
    if (flags.has("b")) continue;
    for (const disk of system.disks) {
      if (disk.scbus !== bus.scbus) continue;
      const place = `scbus${disk.scbus} target ${disk.target} lun ${disk.lun}`;
      await print(`${identity(disk).padEnd(34)} at ${place} (${disk.name},${disk.passName})`);
    }
  }
}

export const camcontrol: Command = {
  name: "camcontrol",
  summary: "talk to SCSI devices",
  usage: USAGE,
  verbs: ["devlist", "inquiry", "readcap", "tur"],
  async run({ args, system, print }) {
    const [verb, ...rest] = args;
    switch (verb) {
      case "devlist":
        await devlist(system, rest, print);
        return 0;
      case "tur": {
        const disk = find(system, rest);
        try {
          await disk.testUnitReady();
        } catch {
          await print("Unit is not ready");
          return 1;
        }
        await print("Unit is ready");
        return 0;
      }
      case "inquiry": {
        const { flags, operands } = getopt(rest, "DSR");
        const disk = find(system, operands);
        const data = await disk.inquiry();
        const wants = (flag: string): boolean => flags.size === 0 || flags.has(flag);
        const version = data[2] === 5 ? "SPC-3" : `SCSI-${data[2]}`;
        const removable = (data[1]! & 0x80) !== 0 ? "Removable" : "Fixed";
        if (wants("D"))
          await print(
            `${disk.passName}: ${identity(disk)} ${removable} Direct Access ${version} SCSI device`,
          );
        // The serial number alone is for scripts.
        if (flags.size === 1 && flags.has("S")) await print(disk.ident);
        else if (wants("S")) await print(`${disk.passName}: Serial Number ${disk.ident}`);
        if (wants("R"))
          await print(`${disk.passName}: 300.000MB/s transfers, Command Queueing Enabled`);
        return 0;
      }
      case "readcap": {
        const { flags, operands } = getopt(rest, "bhHNqs");
        const disk = find(system, operands);
        const { lastBlock, blockBytes } = await disk.readCapacity();
        if (flags.has("b"))
          await print(flags.has("q") ? `${blockBytes}` : `Block Length: ${blockBytes} bytes`);
        else if (flags.has("N")) {
          const blocks = lastBlock + 1;
          await print(flags.has("q") ? `${blocks}` : `Number of Blocks: ${blocks}`);
        } else if (flags.has("s")) {
          await print(flags.has("q") ? `${lastBlock}` : `Last Block: ${lastBlock}`);
        } else if (flags.has("h") || flags.has("H")) {
          const size = (lastBlock + 1) * blockBytes;
          const [base, units] = flags.has("h") ? [1024, "KMGTP"] : [1000, "KMGTP"];
          let power = 0;
          while (size / base ** (power + 1) >= 1 && power < units.length) power++;
          const text = `${(size / base ** power).toFixed(1)}${power === 0 ? "" : units[power - 1]!}`;
          await print(`Device Size: ${text}, Block Length: ${blockBytes} bytes`);
        } else await print(`Last Block: ${lastBlock}, Block Length: ${blockBytes} bytes`);
        return 0;
      }
      default:
        throw new UsageError(verb === undefined ? "" : `unknown command ${verb}`);
    }
  },
};
