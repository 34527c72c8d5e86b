import { open } from "node:fs/promises";
import type { Timer } from "@hyperv-is/vmbus-core";
import { PcapngFlag, PcapngWriter } from "@hyperv-is/platform-node";
import type { NetworkInterface } from "../../net/network-interface.js";
import { packetLine } from "../../net/packet-line.js";
import { CommandError, UsageError, getopt, type Command, type CommandContext } from "../command.js";
import { Mailbox } from "../mailbox.js";

/** Packets that wait for a slow console. */
const LINES_MAX = 4096;

/** How long packets may wait before they are written. */
const FLUSH_MS = 200;

/** Buffers full of packets that wait for a slow file, or a slow command. */
const CHUNKS_MAX = 4;

const LINK_TYPE = "link-type EN10MB (Ethernet), snapshot length 262144 bytes";

/** `12:34:56.789012`, UTC, or seconds since 1970. */
function timeText(realTimeMs: number, inSeconds: boolean): string {
  const micros = Math.floor(realTimeMs * 1_000) % 1_000_000;
  const seconds = Math.floor(realTimeMs / 1_000);
  const fraction = String(micros).padStart(6, "0");
  return inSeconds
    ? `${seconds}.${fraction}`
    : `${new Date(seconds * 1_000).toISOString().slice(11, 19)}.${fraction}`;
}

interface Capture {
  /** Packets that were taken. */
  captured: number;
  /** Packets that came. */
  received: number;
  dropped: number;
}

/** Prints a line for each packet, until there were enough or it is interrupted. */
async function printPackets(
  { print, signal, system }: CommandContext,
  target: NetworkInterface,
  count: number,
  flags: ReadonlySet<string>,
  capture: Capture,
): Promise<void> {
  const { network } = system;
  const lines = new Mailbox<string>(network.timers, LINES_MAX);
  const stop = target.capture((frame) => {
    capture.received++;
    const time = flags.has("t") ? "" : `${timeText(network.realTimeMs(), flags.has("T"))} `;
    lines.put(time + packetLine(frame, flags.has("e")));
  });
  try {
    while (capture.captured < count) {
      const line = await lines.take(Infinity, signal);
      if (line === undefined) return;
      capture.captured++;
      await print(line);
    }
  } finally {
    stop();
    capture.dropped = lines.dropped;
  }
}

/** Writes packets as pcapng, until there were enough or it is interrupted. */
async function writePackets(
  { signal, stdout, system }: CommandContext,
  target: NetworkInterface,
  count: number,
  path: string,
  capture: Capture,
): Promise<void> {
  const { network } = system;
  const file = path === "-" ? undefined : await open(path, "w");
  const chunks = new Mailbox<Uint8Array>(network.timers, CHUNKS_MAX);
  const writer = new PcapngWriter({
    application: "tcpdump",
    interfaces: [{ name: target.name, macAddress: target.macAddress }],
    nowUs: () => network.realTimeMs() * 1_000,
    write: (chunk) => !chunks.isFull && chunks.put(chunk.slice()),
  });
  const keep = async (chunk: Uint8Array): Promise<void> => {
    await (file === undefined ? stdout.write(chunk) : file.writeFile(chunk));
  };
  let flushing: Timer | undefined;
  const stop = target.capture((frame, direction, checksums) => {
    capture.received++;
    if (capture.captured === count) return;
    const { inbound, outbound, checksumValid, checksumNotReady } = PcapngFlag;
    const flags =
      direction === "in"
        ? inbound | (checksums === 0 ? 0 : checksumValid)
        : outbound | (checksums === 0 ? 0 : checksumNotReady);
    if (writer.packet(0, frame, flags)) capture.captured++;
    else capture.dropped++;
    // The command waits for what is written.
    if (capture.captured === count) writer.flush();
    flushing ??= network.timers.after(FLUSH_MS, () => {
      flushing = undefined;
      writer.flush();
    });
  });
  try {
    while (capture.captured < count && !signal.aborted) {
      writer.flush();
      const chunk = await chunks.take(Infinity, signal);
      if (chunk !== undefined) await keep(chunk);
    }
    stop();
    while (!writer.close()) await keep((await chunks.take(0, signal))!);
    for (let chunk; (chunk = await chunks.take(0, signal)) !== undefined;) await keep(chunk);
  } finally {
    stop();
    flushing?.cancel();
    await file?.close();
  }
}

export const tcpdump: Command = {
  name: "tcpdump",
  summary: "show the packets of an interface, or write them as pcapng",
  usage: "tcpdump [-enpStU] [-c count] [-i interface] [-w file]",
  async run(context) {
    const { args, system, warn } = context;
    // -tt is two letters to getopt.
    const words = args.map((word) => (word === "-tt" ? "-T" : word));
    const { flags, values, operands } = getopt(words, "c:eni:pStTUvw:");
    if (flags.has("v"))
      throw new CommandError(
        "-v: packets are not decoded further; -w file writes them for Wireshark",
      );
    if (operands.length > 0)
      throw new CommandError("filter expressions are not supported; pipe into grep instead");
    const { interfaces } = system.network.stack;
    const name = values.get("i") ?? interfaces.find(({ isLoopback }) => !isLoopback)?.name ?? "lo0";
    const target = system.network.stack.find(name);
    if (target === undefined)
      throw new CommandError(`${name}: No such device exists (no such device)`);
    const wanted = values.get("c");
    const count = wanted === undefined ? Infinity : Number(wanted);
    if (wanted !== undefined && !/^[1-9]\d*$/.test(wanted))
      throw new CommandError(`invalid packet count ${wanted}`);
    if (flags.has("t") && flags.has("T")) throw new UsageError();
    const path = values.get("w");
    const capture: Capture = { captured: 0, received: 0, dropped: 0 };
    warn(`tcpdump: listening on ${name}, ${LINK_TYPE}`);
    if (path === undefined) await printPackets(context, target, count, flags, capture);
    else await writePackets(context, target, count, path, capture);
    const { captured, received, dropped } = capture;
    const packets = (number: number): string => `${number} packet${number === 1 ? "" : "s"}`;
    warn(`${packets(captured)} captured`);
    warn(`${packets(received)} received by filter`);
    warn(`${packets(dropped)} dropped by kernel`);
    return 0;
  },
};
