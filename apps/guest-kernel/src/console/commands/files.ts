import { CommandError, getopt, type Command } from "../command.js";

export const ls: Command = {
  name: "ls",
  summary: "list files",
  usage: "ls [-1ad] [file ...]",
  async run({ args, files, print, warn }) {
    const { flags, operands } = getopt(args, "1ad");
    const paths = operands.length === 0 ? ["/"] : operands;
    let status = 0;
    for (const path of paths) {
      const node = await files.find(path);
      if (node === undefined) {
        warn(`ls: ${path}: No such file or directory`);
        status = 1;
      } else if (node.kind !== "directory" || flags.has("d")) await print(path);
      else {
        if (paths.length > 1) await print(`${path}:`);
        const names = flags.has("a") ? [".", "..", ...node.names] : node.names;
        if (flags.has("1")) for (const name of names) await print(name);
        else await print(names.join("  "));
      }
    }
    return status;
  },
};

export const cat: Command = {
  name: "cat",
  summary: "print files",
  usage: "cat [file ...]",
  async run({ args, files, stdin, stdout, signal, warn }) {
    const { operands } = getopt(args, "u");
    let status = 0;
    for (const path of operands.length === 0 ? ["-"] : operands) {
      if (path === "-") {
        for await (const chunk of stdin) await stdout.write(chunk);
        continue;
      }
      const node = await files.find(path);
      if (node === undefined || node.kind === "directory") {
        warn(
          `cat: ${path}: ${node === undefined ? "No such file or directory" : "Is a directory"}`,
        );
        status = 1;
        continue;
      }
      for await (const chunk of files.bytes(node, signal)) await stdout.write(chunk);
      if (signal.aborted) throw new CommandError("interrupted", 130);
    }
    return status;
  },
};
