import { UsageError, getopt, type Command } from "../command.js";

export const dmesg: Command = {
  name: "dmesg",
  summary: "print the kernel's messages",
  usage: "dmesg [-a]",
  async run({ args, system, print }) {
    if (getopt(args, "a").operands.length > 0) throw new UsageError();
    for (const line of system.dmesg.lines) await print(line);
    return 0;
  },
};

export const uname: Command = {
  name: "uname",
  summary: "print what system this is",
  usage: "uname [-aimnoprsv]",
  async run({ args, system, print }) {
    const { flags, operands } = getopt(args, "aimnoprsv");
    if (operands.length > 0) throw new UsageError();
    const { type, hostName, release, version, machine } = system.identity;
    const all = flags.has("a");
    const fields: [string, string][] = [
      ["s", type],
      ["n", hostName],
      ["r", release],
      ["v", version],
      ["m", machine],
    ];
    const wanted = fields
      .filter(([flag]) => all || flags.has(flag) || (flag === "s" && flags.has("o")))
      .map(([, value]) => value);
    if (!all && (flags.has("p") || flags.has("i"))) wanted.push(machine);
    await print(flags.size === 0 ? type : wanted.join(" "));
    return 0;
  },
};

export const echo: Command = {
  name: "echo",
  summary: "print the arguments",
  usage: "echo [-n] [string ...]",
  async run({ args, stdout }) {
    const bare = args[0] === "-n";
    const text = (bare ? args.slice(1) : args).join(" ");
    await stdout.write(new TextEncoder().encode(bare ? text : `${text}\n`));
    return 0;
  },
};

export const trueCommand: Command = {
  name: "true",
  summary: "succeed",
  usage: "true",
  run: () => Promise.resolve(0),
};

export const falseCommand: Command = {
  name: "false",
  summary: "fail",
  usage: "false",
  run: () => Promise.resolve(1),
};

export const shutdown: Command = {
  name: "shutdown",
  summary: "flush the disks and power off, or restart",
  usage: "shutdown [-h | -p | -r] now",
  async run({ args, shutDown, print }) {
    const { flags, operands } = getopt(args, "hpr");
    if (flags.size !== 1 || operands.length !== 1 || operands[0] !== "now") throw new UsageError();
    await print("Shutdown NOW!");
    shutDown(flags.has("r") ? "restart" : "power-off");
    return 0;
  },
};

export const poweroff: Command = {
  name: "poweroff",
  summary: "the same as shutdown -p now",
  usage: "poweroff",
  run({ args, shutDown }) {
    if (args.length > 0) throw new UsageError();
    shutDown("power-off");
    return Promise.resolve(0);
  },
};

export const reboot: Command = {
  name: "reboot",
  summary: "the same as shutdown -r now",
  usage: "reboot",
  run({ args, shutDown }) {
    if (args.length > 0) throw new UsageError();
    shutDown("restart");
    return Promise.resolve(0);
  },
};
