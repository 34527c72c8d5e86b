import { Mailbox } from "../mailbox.js";
import { UsageError, getopt, type Command } from "../command.js";
import { findInterface } from "./ifconfig.js";

/** Lines that are kept while the console is slow. */
const LINES_MAX = 256;

export const dhclient: Command = {
  name: "dhclient",
  summary: "configure an interface by DHCP (-r, an extra, gives the lease back)",
  usage: "dhclient [-bdqr] interface",
  async run({ args, system, signal, warn }) {
    const { flags, operands } = getopt(args, "bdqr");
    const [name, ...rest] = operands;
    if (name === undefined || rest.length > 0) throw new UsageError();
    const target = findInterface(system, name);
    const { network } = system;
    const lines = new Mailbox<string>(network.timers, LINES_MAX);
    const listen = (line: string): void => void lines.put(line);
    if (flags.has("r")) {
      const released = network.releaseDhcp(target, flags.has("q") ? () => undefined : warn);
      network.stopListening(target);
      return released ? 0 : 1;
    }
    await target.setUp(true);
    const client = network.startDhcp(target, listen);
    try {
      if (flags.has("b")) return 0;
      // As FreeBSD's goes on in the background when it is bound, or when nobody has answered.
      for (;;) {
        const line = await lines.take(Infinity, signal);
        if (line === undefined) return 1;
        if (!flags.has("q")) warn(line);
        if (line.startsWith("bound to ")) return 0;
        if (client.state === "sleeping" && line.startsWith("No working leases")) return 1;
      }
    } finally {
      network.stopListening(target);
    }
  },
};
