import type { Command } from "../command.js";
import { arp } from "./arp.js";
import { camcontrol } from "./camcontrol.js";
import { date } from "./date.js";
import { dd } from "./dd.js";
import { devinfo, lsvmbus } from "./devinfo.js";
import { dhclient } from "./dhclient.js";
import { diskinfo } from "./diskinfo.js";
import { cat, ls } from "./files.js";
import { gpart } from "./gpart.js";
import { ifconfig } from "./ifconfig.js";
import { kthread } from "./kthread.js";
import { kldload, kldstat, kldunload } from "./kld.js";
import { netstat } from "./netstat.js";
import { ping } from "./ping.js";
import { sha256 } from "./sha256.js";
import { sysctl } from "./sysctl.js";
import {
  dmesg,
  echo,
  falseCommand,
  poweroff,
  reboot,
  shutdown,
  trueCommand,
  uname,
} from "./system.js";
import { tcpdump } from "./tcpdump.js";
import { grep, head, wc } from "./text.js";
import { UsageError } from "../command.js";

const help: Command = {
  name: "help",
  summary: "list the commands, or say how one is called",
  usage: "help [command]",
  async run({ args, print, warn }) {
    const [name, ...rest] = args;
    if (rest.length > 0) throw new UsageError();
    if (name === undefined) {
      for (const { name: each, summary } of commands) await print(`${each.padEnd(12)}${summary}`);
      return 0;
    }
    const command = commands.find((candidate) => candidate.name === name);
    if (command === undefined) {
      warn(`help: no command ${name}; help lists all`);
      return 1;
    }
    await print(`${command.name}: ${command.summary}`);
    await print(`usage: ${command.usage}`);
    return 0;
  },
};

/** Every command of the console, by name. */
export const commands: readonly Command[] = [
  arp,
  camcontrol,
  cat,
  date,
  dd,
  devinfo,
  dhclient,
  diskinfo,
  dmesg,
  echo,
  falseCommand,
  gpart,
  grep,
  head,
  help,
  ifconfig,
  kldload,
  kldstat,
  kldunload,
  kthread,
  ls,
  lsvmbus,
  netstat,
  ping,
  poweroff,
  reboot,
  sha256,
  shutdown,
  sysctl,
  tcpdump,
  trueCommand,
  uname,
  wc,
];
