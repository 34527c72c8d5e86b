import { UsageError, getopt, type Command } from "../command.js";

export const sysctl: Command = {
  name: "sysctl",
  summary: "show and set kernel state",
  usage: "sysctl [-Ndnq] name[=value] ...\nsysctl [-Ndnq] -a [name]",
  async run({ args, system, print, warn }) {
    const { flags, operands } = getopt(args, "aNdnq");
    const everything = flags.has("a") && operands.length === 0;
    if (operands.length === 0 && !everything) throw new UsageError();
    let status = 0;
    const complain = (text: string): void => {
      if (!flags.has("q")) warn(`sysctl: ${text}`);
      status = 1;
    };
    for (const operand of everything ? [""] : operands) {
      const [name = "", ...rest] = operand.split("=");
      const found = everything ? system.sysctl.all() : system.sysctl.find(name);
      if (found.length === 0) {
        complain(`unknown oid '${name}'`);
        continue;
      }
      if (rest.length > 0) {
        const [leaf, node] = found[0]!;
        if (leaf !== name || node.write === undefined) {
          complain(`oid '${name}' is read only`);
          continue;
        }
        const before = await node.read();
        try {
          await node.write(rest.join("="));
        } catch (error) {
          complain(`${name}: ${error instanceof Error ? error.message : String(error)}`);
          continue;
        }
        const after = await node.read();
        await print(flags.has("n") ? String(after) : `${name}: ${before} -> ${after}`);
        continue;
      }
      for (const [leaf, node] of found) {
        let value = node.description;
        try {
          if (!flags.has("d")) value = String(await node.read());
        } catch (error) {
          complain(`${leaf}: ${error instanceof Error ? error.message : String(error)}`);
          continue;
        }
        if (flags.has("N")) await print(leaf);
        else await print(flags.has("n") ? value : `${leaf}: ${value}`);
      }
    }
    return status;
  },
};
