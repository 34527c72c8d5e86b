import type { InternetStack } from "../../net/internet-stack.js";
import { IcmpType } from "../../net/protocol.js";

/** A number with FreeBSD's words, where `(s)` and `(y)` are endings that go by the number; or a whole line. */
type Line = readonly [count: number, text: string] | string;

/** What each protocol of the stack counts, in FreeBSD's order and words; a line of FreeBSD's that is missing is not counted. */
const protocols: Readonly<Record<string, (stack: InternetStack) => readonly Line[]>> = {
  udp: ({ udp: { counters } }) => [
    [
      counters.received +
        counters.tooShort +
        counters.badLength +
        counters.badChecksum +
        counters.noSocket +
        counters.noSocketForMany,
      "datagram(s) received",
    ],
    [counters.tooShort, "with incomplete header"],
    [counters.badLength, "with bad data length field"],
    [counters.badChecksum, "with bad checksum"],
    [counters.noChecksum, "with no checksum"],
    [counters.noSocket, "dropped due to no socket"],
    [counters.noSocketForMany, "broadcast/multicast datagram(s) undelivered"],
    [counters.received, "delivered"],
    [counters.sent, "datagram(s) output"],
  ],
  ip: ({ counters, output: { counters: output } }) => {
    const strangers = counters.unknownProtocol + counters.tcp;
    return [
      [counters.received, "total packet(s) received"],
      [counters.badChecksum, "bad header checksum(s)"],
      [counters.tooShort, "with size smaller than minimum"],
      [counters.tooSmall, "with data size < data length"],
      [counters.badHeaderLength, "with header length < data size"],
      [counters.badLength, "with data length < header length"],
      [counters.badVersion, "with incorrect version number"],
      [counters.fragments, "fragment(s) received"],
      [counters.delivered - strangers, "packet(s) for this host"],
      [strangers, "packet(s) for unknown/unsupported protocol"],
      [counters.notForUs, "packet(s) not forwardable"],
      [counters.notMember, "packet(s) received for unknown multicast group"],
      [output.sent, "packet(s) sent from this host"],
      [output.dropped, "output packet(s) dropped due to no bufs, etc."],
      [output.noRoute, "output packet(s) discarded due to no route"],
      [output.tooBig, "datagram(s) that can't be fragmented"],
      [counters.badAddress, "datagram(s) with bad address in header"],
    ];
  },
  icmp: ({ icmp: { counters, received, sent } }) => [
    [counters.errorsSent, "call(s) to icmp_error"],
    ...histogram("Output", sent),
    [counters.tooShort, "message(s) less than the minimum length"],
    [counters.badChecksum, "message(s) with bad checksum"],
    [counters.groupEcho, "multicast echo requests ignored"],
    ...histogram("Input", received),
    [counters.echoReplies, "message response(s) generated"],
    [counters.noRoute, "no return route(s)"],
  ],
  arp: ({ interfaces }) => {
    const sum = (
      count: (counters: InternetStack["interfaces"][number]["arp"]["counters"]) => number,
    ) => interfaces.reduce((total, { arp }) => total + count(arp.counters), 0);
    return [
      [sum(({ requestsSent }) => requestsSent), "ARP request(s) sent"],
      [sum(({ repliesSent }) => repliesSent), "ARP repl(y) sent"],
      [sum(({ requestsReceived }) => requestsReceived), "ARP request(s) received"],
      [sum(({ repliesReceived }) => repliesReceived), "ARP repl(y) received"],
      [
        sum(
          (counters) => counters.requestsReceived + counters.repliesReceived + counters.malformed,
        ),
        "ARP packet(s) received",
      ],
      [sum(({ dropped }) => dropped), "total packet(s) dropped due to no ARP entry"],
      [sum(({ duplicates }) => duplicates), "Duplicate IP(s) seen"],
    ];
  },
};

/** `netstat -s`, of one protocol or of all; undefined for one that there is not. */
export function protocolStatistics(stack: InternetStack, only?: string): string[] | undefined {
  const names = Object.keys(protocols).filter((name) => only === undefined || name === only);
  if (names.length === 0) return undefined;
  return names.flatMap((name) => [`${name}:`, ...protocols[name]!(stack).map(lineText)]);
}

function lineText(line: Line): string {
  if (typeof line === "string") return `\t${line}`;
  const [count, text] = line;
  const isOne = count === 1;
  return `\t${count} ${text.replace("(s)", isOne ? "" : "s").replace("(y)", isOne ? "y" : "ies")}`;
}

const icmpNames: ReadonlyMap<number, string> = new Map([
  [IcmpType.echoReply, "echo reply"],
  [IcmpType.unreachable, "destination unreachable"],
  [IcmpType.sourceQuench, "source quench"],
  [IcmpType.redirect, "routing redirect"],
  [IcmpType.echo, "echo"],
  [9, "router advertisement"],
  [10, "router solicitation"],
  [IcmpType.timeExceeded, "time exceeded"],
  [IcmpType.parameterProblem, "parameter problem"],
  [13, "time stamp"],
  [14, "time stamp reply"],
  [15, "information request"],
  [16, "information request reply"],
  [17, "address mask request"],
  [18, "address mask reply"],
]);

/** Messages by type; nothing if there were none. */
function histogram(direction: "Input" | "Output", counts: Float64Array): string[] {
  const lines = Array.from(counts).flatMap((count, type) =>
    count === 0 ? [] : [`\t${icmpNames.get(type) ?? `unknown ICMP #${type}`}: ${count}`],
  );
  return lines.length === 0 ? [] : [`${direction} histogram:`, ...lines];
}
