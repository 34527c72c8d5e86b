import { deviceClasses } from "@hyperv-is/vmbus-core/protocol";
import type { Device } from "../../kernel/device-tree.js";
import { UsageError, getopt, type Command } from "../command.js";

export const devinfo: Command = {
  name: "devinfo",
  summary: "print the tree of devices",
  usage: "devinfo [-v]",
  async run({ args, system, print }) {
    const { flags, operands } = getopt(args, "rv");
    if (operands.length > 0) throw new UsageError();
    const verbose = flags.has("v");
    const show = async (device: Device, depth: number): Promise<void> => {
      const known = device.driver !== undefined;
      if (known || verbose) {
        const details = verbose && device.pnpInfo !== "" ? ` pnpinfo ${device.pnpInfo}` : "";
        await print(`${"  ".repeat(depth)}${device.name}${details}`);
      }
      for (const child of device.children) await show(child, depth + 1);
    };
    await show(system.devices, 0);
    return 0;
  },
};

/** Not in FreeBSD: Linux's tool, in Linux's shape. */
export const lsvmbus: Command = {
  name: "lsvmbus",
  summary: "list what the host offers (an extra, in the shape of Linux's lsvmbus)",
  usage: "lsvmbus [-v]",
  async run({ args, system, print }) {
    const { flags, operands } = getopt(args, "v");
    if (operands.length > 0) throw new UsageError();
    const offers = [...system.offers].sort((left, right) => left.relid - right.relid);
    for (const { relid, classId, instanceId, cpu } of offers) {
      const name = deviceClasses.find((row) => row.classId === classId)?.linux ?? "Unknown";
      const id = `VMBUS ID ${String(relid).padStart(2)}:`;
      if (!flags.has("v")) {
        await print(`${id} ${name}`);
        continue;
      }
      await print(`${id} Class_ID = {${classId}} - ${name}`);
      await print(`\tDevice_ID = {${instanceId}}`);
      await print(`\tRel_ID=${relid}, target_cpu=${cpu ?? 0}`);
      await print();
    }
    return 0;
  },
};
