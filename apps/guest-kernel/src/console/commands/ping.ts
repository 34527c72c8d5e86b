import { formatAddress } from "../../net/addresses.js";
import type { EchoAnswer } from "../../net/icmp.js";
import { NetworkErrno } from "../../net/network-error.js";
import { getU16, getU32, getU8 } from "../../net/network-order.js";
import { IcmpType, Ipv4, UnreachableCode } from "../../net/protocol.js";
import { CommandError, UsageError, getopt, type Command, type CommandContext } from "../command.js";
import { Mailbox } from "../mailbox.js";

/** Exit status of a host that is not known, FreeBSD's EX_NOHOST. */
const NO_HOST = 68;
const DATA_BYTES = 56;
/** What is left of the largest packet. */
const DATA_BYTES_MAX = 65_507;
/** Bytes in front of the data that hold the time; without room for them nothing is timed. */
const TIME_BYTES = 8;
const WAIT_MS = 10_000;
const ANSWERS_MAX = 1024;

interface PingOptions {
  /** Infinite for no end. */
  readonly count: number;
  readonly intervalMs: number;
  readonly dataBytes: number;
  readonly waitMs: number;
  readonly timeToLive: number | undefined;
  readonly isQuiet: boolean;
}

/** An answer, when it came. */
interface Arrival {
  readonly answer: EchoAnswer;
  readonly atMs: number;
}

function optionsOf(args: readonly string[]): [PingOptions, string] {
  const { flags, values, operands } = getopt(args, "c:i:m:nqs:W:");
  const [host, ...rest] = operands;
  if (host === undefined || rest.length > 0) throw new UsageError();
  const number = (letter: string, fallback: number, least: number, most: number): number => {
    const text = values.get(letter);
    if (text === undefined) return fallback;
    const value = Number(text);
    if (text === "" || !(value >= least && value <= most)) return refuse(letter, text);
    return value;
  };
  const whole = (letter: string, fallback: number, least: number, most: number): number => {
    const value = number(letter, fallback, least, most);
    return values.has(letter) && !Number.isInteger(value) ? refuse(letter, String(value)) : value;
  };
  return [
    {
      count: whole("c", Infinity, 1, 0x7fff_ffff),
      intervalMs: number("i", 1, 0.001, 0x7fff_ffff) * 1_000,
      dataBytes: whole("s", DATA_BYTES, 0, DATA_BYTES_MAX),
      waitMs: whole("W", WAIT_MS, 0, 0x7fff_ffff),
      timeToLive: values.has("m") ? whole("m", 64, 0, 255) : undefined,
      isQuiet: flags.has("q"),
    },
    host,
  ];
}

const optionNames: Readonly<Record<string, string>> = {
  c: "count of packets to transmit",
  i: "timing interval",
  m: "TTL",
  s: "packet size",
  W: "timing interval",
};

function refuse(letter: string, text: string): never {
  throw new CommandError(`invalid ${optionNames[letter] ?? "option"}: \`${text}'`, 64);
}

/** What an ICMP error is about, as FreeBSD says it. */
function errorText({ type, code, nextMtu }: Extract<EchoAnswer, { kind: "error" }>): string {
  switch (type) {
    case IcmpType.unreachable:
      switch (code) {
        case UnreachableCode.net:
          return "Destination Net Unreachable";
        case UnreachableCode.host:
          return "Destination Host Unreachable";
        case UnreachableCode.protocol:
          return "Destination Protocol Unreachable";
        case UnreachableCode.port:
          return "Destination Port Unreachable";
        case UnreachableCode.fragmentationNeeded:
          return `frag needed and DF set (MTU ${nextMtu})`;
        case 5:
          return "Source Route Failed";
        case 13:
          return "Communication prohibited by filter";
        default:
          return `Dest Unreachable, Bad Code: ${code}`;
      }
    case IcmpType.timeExceeded:
      if (code > 1) return `Time exceeded, Bad Code: ${code}`;
      return code === 0 ? "Time to live exceeded" : "Frag reassembly time exceeded";
    case IcmpType.sourceQuench:
      return "Source Quench";
    case IcmpType.parameterProblem:
      return `Parameter problem: pointer = 0x${(nextMtu >> 8).toString(16).padStart(2, "0")}`;
    default:
      return `Bad ICMP type: ${type}`;
  }
}

/** The quoted header, as FreeBSD shows it. The stack has checked that it is there. */
function quotedHeader(quoted: Uint8Array): string[] {
  const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");
  const first = getU8(quoted, 0);
  const fragment = getU16(quoted, Ipv4.fragment);
  const options = quoted.subarray(Ipv4.HEADER_BYTES, (first & 15) * 4);
  return [
    "Vr HL TOS  Len   ID Flg  off TTL Pro  cks      Src      Dst",
    ` ${hex(first >> 4, 1)}  ${hex(first & 15, 1)}  ${hex(getU8(quoted, Ipv4.typeOfService), 2)}` +
      ` ${hex(getU16(quoted, Ipv4.totalLength), 4)} ${hex(getU16(quoted, Ipv4.identification), 4)}` +
      `   ${hex(fragment >> 13, 1)} ${hex(fragment & 0x1fff, 4)}` +
      `  ${hex(getU8(quoted, Ipv4.timeToLive), 2)}  ${hex(getU8(quoted, Ipv4.protocol), 2)}` +
      ` ${hex(getU16(quoted, Ipv4.checksum), 4)}` +
      ` ${formatAddress(getU32(quoted, Ipv4.source))}  ${formatAddress(getU32(quoted, Ipv4.destination))} ` +
      [...options].map((byte) => hex(byte, 2)).join(""),
    "",
  ];
}

/** One run: what was sent and what came. */
class Ping {
  readonly #context: CommandContext;
  readonly #options: PingOptions;
  readonly #host: string;
  readonly #sentMs: number[] = [];
  readonly #answered = new Set<number>();
  #received = 0;
  #repeats = 0;
  #late = 0;
  #sum = 0;
  #squares = 0;
  #least = Infinity;
  #most = 0;

  constructor(context: CommandContext, options: PingOptions, host: string) {
    this.#context = context;
    this.#options = options;
    this.#host = host;
  }

  /** @returns Exit status. */
  async run(destination: number): Promise<number> {
    const { print, signal, system, warn } = this.#context;
    const { count, intervalMs, dataBytes, waitMs, timeToLive } = this.#options;
    const { timers, stack } = system.network;
    const arrivals = new Mailbox<Arrival>(timers, ANSWERS_MAX);
    const echo = stack.openEcho((answer) => {
      const kept =
        answer.kind === "error" ? { ...answer, quoted: answer.quoted.slice() } : { ...answer };
      arrivals.put({ answer: kept, atMs: timers.now() });
    });
    const data = Uint8Array.from({ length: dataBytes }, (_, at) => at);
    await print(`PING ${this.#host} (${formatAddress(destination)}): ${dataBytes} data bytes`);
    try {
      let untilMs = timers.now();
      let isLast = false;
      while (!signal.aborted && this.#received < count) {
        const arrival = await arrivals.take(untilMs, signal);
        if (arrival !== undefined) {
          await this.#show(arrival);
          continue;
        }
        if (timers.now() < untilMs) continue;
        if (this.#sentMs.length < count) {
          const outcome = echo.send(destination, this.#sentMs.length & 0xffff, data, timeToLive);
          this.#sentMs.push(timers.now());
          if (outcome !== "sent" && outcome !== "held")
            warn(`ping: sendto: ${NetworkErrno[outcome]}`);
          untilMs = timers.now() + intervalMs;
        } else if (isLast) break;
        else {
          isLast = true;
          const longest = this.#received > 0 ? Math.max(1_000, 2 * this.#most) : waitMs;
          untilMs = timers.now() + longest;
        }
      }
    } finally {
      echo.close();
    }
    for (const line of this.#summary()) {
      // Nobody takes standard output any more when the command was interrupted.
      if (signal.aborted) warn(line);
      else await print(line);
    }
    return this.#received > 0 ? 0 : 2;
  }

  async #show({ answer, atMs }: Arrival): Promise<void> {
    const { print } = this.#context;
    const { dataBytes, waitMs, isQuiet } = this.#options;
    const from = formatAddress(answer.source);
    if (answer.kind === "error") {
      await print(`${answer.lengthBytes} bytes from ${from}: ${errorText(answer)}`);
      for (const line of quotedHeader(answer.quoted)) await print(line);
      return;
    }
    // Sequence numbers begin again after 65,536 packets: the last one of that number is meant.
    const { sequence } = answer;
    const wrapped = Math.floor((this.#sentMs.length - 1 - sequence) / 0x1_0000) * 0x1_0000;
    const index = wrapped + sequence;
    const sentMs = this.#sentMs[index];
    if (sentMs === undefined) return;
    const tripMs = atMs - sentMs;
    const isRepeat = this.#answered.has(index);
    this.#answered.add(index);
    if (isRepeat) this.#repeats++;
    else this.#received++;
    const isTimed = dataBytes >= TIME_BYTES;
    this.#sum += tripMs;
    this.#squares += tripMs * tripMs;
    this.#least = Math.min(this.#least, tripMs);
    this.#most = Math.max(this.#most, tripMs);
    if (tripMs > waitMs) {
      this.#late++;
      return;
    }
    if (isQuiet) return;
    await print(
      `${answer.lengthBytes} bytes from ${from}: icmp_seq=${sequence} ttl=${answer.timeToLive}` +
        (isTimed ? ` time=${tripMs.toFixed(3)} ms` : "") +
        (isRepeat ? " (DUP!)" : ""),
    );
  }

  #summary(): string[] {
    const transmitted = this.#sentMs.length;
    const received = this.#received;
    const loss =
      transmitted > 0
        ? `, ${(((transmitted - received) * 100) / transmitted).toFixed(1)}% packet loss`
        : "";
    const repeats = this.#repeats > 0 ? `, +${this.#repeats} duplicates` : "";
    const late = this.#late > 0 ? `, ${this.#late} packets out of wait time` : "";
    const lines = [
      "",
      `--- ${this.#host} ping statistics ---`,
      `${transmitted} packets transmitted, ${received} packets received${repeats}${loss}${late}`,
    ];
    if (received > 0 && this.#options.dataBytes >= TIME_BYTES) {
      const answers = received + this.#repeats;
      const average = this.#sum / answers;
      const deviation = Math.sqrt(Math.max(0, this.#squares / answers - average * average));
      const times = [this.#least, average, this.#most, deviation].map((ms) => ms.toFixed(3));
      lines.push(`round-trip min/avg/max/stddev = ${times.join("/")} ms`);
    }
    return lines;
  }
}

export const ping: Command = {
  name: "ping",
  summary: "send echo requests to a host",
  usage: "ping [-nq] [-c count] [-i wait] [-m ttl] [-s packetsize] [-W waittime] host",
  run(context) {
    const [options, host] = optionsOf(context.args);
    const destination = context.system.network.resolve(host);
    if (destination === undefined)
      throw new CommandError(`cannot resolve ${host}: Unknown host`, NO_HOST);
    return new Ping(context, options, host).run(destination);
  },
};
