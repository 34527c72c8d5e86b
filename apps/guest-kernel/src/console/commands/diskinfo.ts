import { humanSize } from "./gpart.js";
import { UsageError, getopt, type Command } from "../command.js";

export const diskinfo: Command = {
  name: "diskinfo",
  summary: "tell the size and the identity of a disk",
  usage: "diskinfo [-sv] disk ...",
  async run({ args, system, files, print, warn }) {
    const { flags, operands } = getopt(args, "sv");
    if (operands.length === 0) throw new UsageError();
    let status = 0;
    for (const operand of operands) {
      const device = await files.disk(operand);
      if (device === undefined) {
        warn(`diskinfo: ${operand}: No such file or directory`);
        status = 1;
        continue;
      }
      const disk = system.disks.find(({ name }) => device.name.startsWith(name));
      const { name, blockBytes, sizeBytes, physicalBlockBytes } = device;
      const blocks = sizeBytes / blockBytes;
      const stripe = physicalBlockBytes > blockBytes ? physicalBlockBytes : 0;
      if (flags.has("s")) await print(disk?.ident ?? "");
      else if (flags.has("v")) {
        const place =
          disk === undefined
            ? ""
            : `${disk.simName}: scbus${disk.scbus} target ${disk.target} lun ${disk.lun}`;
        const rows: [string, string][] = [
          [String(blockBytes), "# sectorsize"],
          [String(sizeBytes), `# mediasize in bytes (${humanSize(sizeBytes)})`],
          [String(blocks), "# mediasize in sectors"],
          [String(stripe), "# stripesize"],
          ["0", "# stripeoffset"],
          ...(disk === undefined
            ? []
            : ([
                [`${disk.vendor} ${disk.product}`, "# Disk descr."],
                [disk.ident, "# Disk ident."],
                [place, "# Attachment"],
                [disk.unmapSupported ? "Yes" : "No", "# TRIM/UNMAP support"],
                ["0", "# Rotation rate in RPM"],
                ["Not_Zoned", "# Zone Mode"],
              ] satisfies [string, string][])),
        ];
        await print(name);
        for (const [value, text] of rows) await print(`\t${value.padEnd(15)}\t${text}`);
        await print();
      } else await print([name, blockBytes, sizeBytes, blocks, stripe, 0].join("\t"));
    }
    return status;
  },
};
