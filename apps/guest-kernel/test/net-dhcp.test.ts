import { describe, expect, test } from "vitest";
import type { Step, Tick } from "@hyperv-is/vmbus-core";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { testTable } from "../../../packages/vmbus-core/test/state-table.js";
import { formatAddress, parseAddress } from "../src/net/addresses.js";
import { DhcpClient } from "../src/net/dhcp/dhcp-client.js";
import {
  stepDhcp,
  type DhcpEffect,
  type DhcpInput,
  type DhcpState,
} from "../src/net/dhcp/dhcp-state.js";
import { leaseOf, type DhcpLease } from "../src/net/dhcp/lease.js";
import { buildRequest, parseReply, type DhcpReply } from "../src/net/dhcp/message.js";
import { TestDhcpServer, buildReply, readMessage } from "./dhcp-server.js";
import { Segment, SeededRandom, testHost, type TestHost } from "./network-link.js";

const SECOND = 1000;
const NOW = 5_000_000;
const ADDRESS = parseAddress("192.0.2.50")!;
const OTHER = parseAddress("192.0.2.60")!;
const SERVER = parseAddress("192.0.2.1")!;

const ack: DhcpReply = {
  type: "ack",
  server: SERVER,
  address: ADDRESS,
  mask: 0xffffff00,
  routers: [],
  nameServers: [],
  domainName: "",
  mtu: 0,
  leaseS: 3600,
  renewalS: 0,
  rebindingS: 0,
  message: "",
};
const offer: DhcpReply = { ...ack, type: "offer" };
/** Ends in an hour. */
const lease = leaseOf(ack, NOW);

/** Effects and states with what matters in a table, times in seconds from now. */
function brief({ state, effects }: Step<DhcpState, DhcpEffect>): Step<object, object> {
  const seconds = (ms: number): number => (ms - NOW) / SECOND;
  const address = (value: number): string => (value === 0 ? "" : formatAddress(value));
  const { name } = state;
  return {
    state: {
      name,
      in: "deadline" in state ? seconds(state.deadline) : undefined,
      lease: "lease" in state ? address(state.lease.address) : undefined,
      sent: "sent" in state ? state.sent : undefined,
    },
    effects: effects.map((effect) => {
      switch (effect.kind) {
        case "send": {
          const { type, to, clientAddress, requestedAddress, server, isNew } = effect;
          const text = [
            type,
            isNew ? "new" : "again",
            to !== 0 && "unicast",
            address(requestedAddress),
            clientAddress !== 0 && `of ${address(clientAddress)}`,
            server !== 0 && "to its server",
          ];
          return { kind: text.filter(Boolean).join(" ") };
        }
        case "check":
          return { kind: `check ${address(effect.address)}` };
        case "configure":
        case "deconfigure":
          return { kind: `${effect.kind} ${address(effect.lease.address)}` };
        case "log":
          return { kind: `"${effect.line}"` };
      }
    }),
  };
}

describe("a DHCP client", () => {
  const retrying = { deadline: NOW, sinceMs: NOW - 5 * SECOND, sent: 1 };
  const states = {
    stopped: { name: "stopped" },
    selecting: { name: "selecting", ...retrying },
    "selecting for too long": { name: "selecting", ...retrying, sent: 4 },
    requesting: { name: "requesting", offer, ...retrying },
    "requesting for too long": { name: "requesting", offer, ...retrying, sent: 2 },
    rebooting: { name: "rebooting", lease, ...retrying },
    "rebooting for too long": { name: "rebooting", lease, ...retrying, sent: 2 },
    checking: { name: "checking", lease },
    declined: { name: "declined", deadline: NOW },
    bound: { name: "bound", lease, deadline: NOW },
    renewing: { name: "renewing", lease, ...retrying },
    "renewing until T2": {
      name: "renewing",
      lease: { ...lease, rebindingMs: NOW },
      ...retrying,
    },
    rebinding: { name: "rebinding", lease, ...retrying },
    "rebinding until the end": {
      name: "rebinding",
      lease: { ...lease, expiryMs: NOW },
      ...retrying,
    },
    sleeping: { name: "sleeping", deadline: NOW },
  } as const satisfies Record<string, DhcpState>;
  const inputs = {
    start: { kind: "start" },
    "start with a lease": { kind: "start", lease },
    "start with an old lease": { kind: "start", lease: { ...lease, expiryMs: NOW } },
    offer: { kind: "reply", reply: offer },
    ack: { kind: "reply", reply: ack },
    "ack of another address": { kind: "reply", reply: { ...ack, address: OTHER } },
    "ack of another server": { kind: "reply", reply: { ...ack, server: SERVER + 1 } },
    nak: { kind: "reply", reply: { ...ack, type: "nak", address: 0 } },
    "address free": { kind: "address-free" },
    "address in use": { kind: "address-in-use" },
    "link up": { kind: "link-up" },
    release: { kind: "release" },
    tick: { kind: "tick" },
  } as const satisfies Record<string, DhcpInput | Tick>;
  const select = "discover new → selecting in=4 sent=1";
  const reboot = 'request new 192.0.2.50 → rebooting in=4 lease="192.0.2.50" sent=1';
  const check = '"DHCPACK from 192.0.2.1", check 192.0.2.50 → checking lease="192.0.2.50"';
  const checkOther = '"DHCPACK from 192.0.2.1", check 192.0.2.60 → checking lease="192.0.2.60"';
  const lost = (effect: string): string => `${effect}, deconfigure 192.0.2.50, ${select}`;

  /** What inputs mean to a state that they do not concern. */
  function indifferent(state: string) {
    const stay = `→ ${state}`;
    return {
      start: select,
      "start with a lease": reboot,
      "start with an old lease": select,
      offer: stay,
      ack: stay,
      "ack of another address": stay,
      "ack of another server": stay,
      nak: stay,
      "address free": stay,
      "address in use": stay,
      "link up": stay,
      release: "→ stopped",
      tick: stay,
    };
  }
  /** The same for a state that has a lease, which it asks for when it is started. */
  const withLease = (state: string) => ({
    ...indifferent(state),
    start: reboot,
    "start with a lease": reboot,
    "start with an old lease": reboot,
    "link up": reboot,
  });
  const selecting = (sent: number) => ({
    ...indifferent(`selecting in=0 sent=${sent}`),
    offer:
      '"DHCPOFFER from 192.0.2.1", request again 192.0.2.50 to its server → requesting in=4 sent=1',
  });
  const requesting = (sent: number) => ({
    ...indifferent(`requesting in=0 sent=${sent}`),
    ack: check,
    "ack of another address": checkOther,
    nak: `"DHCPNAK from 192.0.2.1", ${select}`,
  });
  const rebooting = (sent: number) => ({
    ...withLease(`rebooting in=0 lease="192.0.2.50" sent=${sent}`),
    ack: check,
    "ack of another address": `deconfigure 192.0.2.50, ${checkOther}`,
    "ack of another server": check.replace("0.2.1", "0.2.2"),
    nak: lost('"DHCPNAK from 192.0.2.1"'),
    release: "deconfigure 192.0.2.50 → stopped",
  });
  const released =
    "release new unicast of 192.0.2.50 to its server, deconfigure 192.0.2.50 → stopped";
  const bound = 'configure 192.0.2.50 → bound in=1795 lease="192.0.2.50"';
  const extending = (state: string) => ({
    ...withLease(state),
    ack: `"DHCPACK from 192.0.2.1", ${bound}`,
    "ack of another address": `deconfigure 192.0.2.50, ${checkOther}`,
    "ack of another server": `"DHCPACK from 192.0.2.2", ${bound}`,
    nak: lost('"DHCPNAK from 192.0.2.1"'),
    release: released,
  });

  testTable<object, DhcpInput | Tick, keyof typeof states, keyof typeof inputs>(
    states,
    inputs,
    (state, input) => brief(stepDhcp(state as DhcpState, input, NOW, 0.5)),
    {
      stopped: { ...indifferent("stopped") },
      selecting: { ...selecting(1), tick: "discover again → selecting in=8 sent=2" },
      "selecting for too long": {
        ...selecting(4),
        tick: '"No DHCPOFFERS received.", "No working leases in persistent database - sleeping." → sleeping in=300',
      },
      requesting: {
        ...requesting(1),
        tick: "request again 192.0.2.50 to its server → requesting in=8 sent=2",
      },
      "requesting for too long": { ...requesting(2), tick: select },
      rebooting: {
        ...rebooting(1),
        tick: 'request again 192.0.2.50 → rebooting in=8 lease="192.0.2.50" sent=2',
      },
      "rebooting for too long": {
        ...rebooting(2),
        tick: check.replace("DHCPACK from 192.0.2.1", "Trying recorded lease 192.0.2.50"),
      },
      checking: {
        ...withLease('checking lease="192.0.2.50"'),
        "address free": 'configure 192.0.2.50 → bound in=1800 lease="192.0.2.50"',
        "address in use":
          '"192.0.2.50 is in use already", decline new 192.0.2.50 to its server → declined in=10',
        release: "→ stopped",
      },
      declined: { ...indifferent("declined in=0"), tick: select },
      bound: {
        ...withLease('bound in=0 lease="192.0.2.50"'),
        release: released,
        tick: 'request new unicast of 192.0.2.50 → renewing in=1575 lease="192.0.2.50" sent=1',
      },
      renewing: {
        ...extending('renewing in=0 lease="192.0.2.50" sent=1'),
        tick: 'request again unicast of 192.0.2.50 → renewing in=1575 lease="192.0.2.50" sent=2',
      },
      "renewing until T2": {
        ...extending('renewing in=0 lease="192.0.2.50" sent=1'),
        tick: 'request new of 192.0.2.50 → rebinding in=1800 lease="192.0.2.50" sent=1',
      },
      rebinding: {
        ...extending('rebinding in=0 lease="192.0.2.50" sent=1'),
        tick: 'request again of 192.0.2.50 → rebinding in=1800 lease="192.0.2.50" sent=2',
      },
      "rebinding until the end": {
        ...extending('rebinding in=0 lease="192.0.2.50" sent=1'),
        start: select,
        "start with a lease": select,
        "start with an old lease": select,
        "link up": reboot,
        tick: `deconfigure 192.0.2.50, ${select}`,
      },
      sleeping: { ...indifferent("sleeping in=0"), tick: select },
    },
  );
});

const mac = Uint8Array.of(0x00, 0x15, 0x5d, 0x0a, 0x14, 0x02);

describe("messages of DHCP", () => {
  test("of a client have what servers want", () => {
    const message = buildRequest({
      type: "request",
      transaction: 0x01020304,
      seconds: 70_000,
      mac,
      hostName: "guest",
      clientAddress: 0,
      requestedAddress: ADDRESS,
      server: SERVER,
    });
    expect(message.byteLength).toBe(300);
    expect([...message.subarray(0, 12)]).toEqual([1, 1, 6, 0, 1, 2, 3, 4, 255, 255, 0, 0]);
    expect(message.subarray(28, 34)).toEqual(mac);
    const { type, transaction, options } = readMessage(message);
    expect([type, transaction]).toEqual(["request", 0x01020304]);
    expect([...options].map(([code, data]) => [code, ...data])).toEqual([
      [53, 3],
      [61, 1, ...mac],
      [50, 192, 0, 2, 50],
      [54, 192, 0, 2, 1],
      [57, 5, 192],
      [12, ...Buffer.from("guest")],
      [55, 1, 28, 3, 15, 6, 26],
    ]);
  });

  const read = (
    options: Parameters<typeof buildReply>[4],
    type: "offer" | "ack" | "nak" = "ack",
    yours = "192.0.2.50",
  ): DhcpReply | undefined => parseReply(buildReply(type, 7, mac, yours, options), mac, 7);

  test("of a server are understood", () => {
    expect(
      read({
        1: [255, 255, 255, 128],
        3: [192, 0, 2, 1, 192, 0, 2, 2],
        6: [192, 0, 2, 3],
        15: "example.org\0",
        26: [0x23, 0x28],
        51: [0, 0, 0, 100],
        54: [192, 0, 2, 1],
        56: "hello",
        58: [0, 0, 0, 40],
        59: [255, 255, 255, 255],
      }),
    ).toEqual({
      type: "ack",
      server: SERVER,
      address: ADDRESS,
      mask: 0xffffff80,
      routers: [SERVER, SERVER + 1],
      nameServers: [SERVER + 2],
      domainName: "example.org",
      mtu: 9000,
      leaseS: 100,
      renewalS: 40,
      rebindingS: Infinity,
      message: "hello",
    });
    expect(read({})).toMatchObject({ mask: 0xffffff00, leaseS: 0, mtu: 0, routers: [] });
    expect(read({ 54: [192, 0, 2, 1] }, "nak", "0.0.0.0")).toMatchObject({
      type: "nak",
      address: 0,
    });
  });

  test("may have options in the fields of names, and in parts", () => {
    const message = buildReply("ack", 7, mac, "192.0.2.50", { 52: [3], 6: [192, 0] });
    message.set([6, 2, 2, 9, 255], 108);
    message.set([15, 1, 120, 0, 0, 15, 1, 121, 255], 44);
    expect(parseReply(message, mac, 7)).toMatchObject({
      nameServers: [parseAddress("192.0.2.9")],
      domainName: "xy",
    });
  });

  test.each<[string, Parameters<typeof read>]>([
    ["a mask with holes", [{ 1: [255, 0, 255, 0] }]],
    ["the address of the network", [{}, "ack", "192.0.2.0"]],
    ["the broadcast address", [{}, "ack", "192.0.2.255"]],
    ["a group's address", [{}, "ack", "224.0.0.5"]],
    ["no address", [{}, "ack", "0.0.0.0"]],
    ["no server in an offer", [{}, "offer"]],
    ["a type that servers do not send", [{ 53: [1] }]],
    ["a type of two bytes", [{ 53: [5, 5] }]],
  ])("are refused with %s", (_, message) => {
    expect(read(...message)).toBeUndefined();
  });

  test.each<[string, (message: Uint8Array) => void]>([
    ["of a client", (message) => message.fill(1, 0, 1)],
    ["of other hardware", (message) => message.fill(6, 1, 2)],
    ["of another transaction", (message) => message.fill(1, 4, 5)],
    ["for another client", (message) => message.fill(1, 33, 34)],
    ["of BOOTP", (message) => message.fill(0, 236, 237)],
    ["that end within an option", (message) => message.fill(200, 244, 245)],
  ])("%s are none of ours", (_, damage) => {
    const message = buildReply("ack", 7, mac, "192.0.2.50", { 56: "hello" });
    expect(parseReply(message, mac, 7)).toBeDefined();
    damage(message);
    expect(parseReply(message, mac, 7)).toBeUndefined();
  });

  test("give leases whose times are in order", () => {
    const times = (changes: Partial<DhcpReply>): number[] => {
      const { renewalMs, rebindingMs, expiryMs } = leaseOf({ ...ack, ...changes }, 0);
      return [renewalMs, rebindingMs, expiryMs].map((ms) => ms / SECOND);
    };
    expect(times({})).toEqual([1800, 3150, 3600]);
    expect(times({ renewalS: 100, rebindingS: 200 })).toEqual([100, 200, 3600]);
    expect(times({ renewalS: 3000, rebindingS: 200 })).toEqual([1800, 3150, 3600]);
    expect(times({ leaseS: 1 })).toEqual([30, 52.5, 60]);
    expect(times({ leaseS: 0 })).toEqual([21600, 37800, 43200]);
    expect(times({ leaseS: Infinity })).toEqual([Infinity, Infinity, Infinity]);
  });
});

interface Network {
  readonly segment: Segment;
  readonly server: TestDhcpServer;
  readonly host: TestHost;
  readonly lines: string[];
  readonly begin: (lease?: DhcpLease) => DhcpClient;
}

async function network(seed = 2): Promise<Network> {
  const segment = new Segment(new VirtualTimers());
  const [serving, host] = [await testHost(segment, 1), await testHost(segment, seed)];
  const server = new TestDhcpServer(serving, host);
  segment.timers.advance(10 * SECOND);
  const lines: string[] = [];
  const begin = (known?: DhcpLease): DhcpClient =>
    new DhcpClient({
      stack: host.stack,
      interface: host.hn0,
      hostName: "guest",
      lease: known,
      log: (line) => void lines.push(line),
    });
  return { segment, server, host, lines, begin };
}

const addresses = ({ hn0 }: TestHost): string[] =>
  hn0.addresses.map(({ address }) => formatAddress(address));

describe("a DHCP client on a segment", () => {
  test("gets an address, a router and an MTU, and renews in time", async () => {
    const { segment, server, host, lines, begin } = await network();
    server.options = { ...server.options, 26: [0x05, 0xaa] };
    const client = begin();
    segment.timers.advance(5 * SECOND);
    expect(lines).toEqual([
      "DHCPDISCOVER on hn0 to 255.255.255.255 port 67 interval 4",
      "DHCPOFFER from 192.0.2.1",
      "DHCPREQUEST on hn0 to 255.255.255.255 port 67",
      "DHCPACK from 192.0.2.1",
      "bound to 192.0.2.50 -- renewal in 1798 seconds.",
    ]);
    expect(addresses(host)).toEqual(["192.0.2.50"]);
    expect(host.stack.routes.defaultGateway).toBe(SERVER);
    expect(host.device.mtu).toBe(1450);
    expect(client.lease).toMatchObject({
      nameServers: [SERVER, SERVER + 2],
      domainName: "example.org",
    });
    expect(server.heard).toEqual(["discover", "request 192.0.2.50 to 192.0.2.1"]);
    lines.length = server.heard.length = 0;
    segment.timers.advance(2 * 1800 * SECOND);
    expect(server.heard).toEqual(["request by 192.0.2.50", "request by 192.0.2.50"]);
    expect(lines.slice(0, 3)).toEqual([
      "DHCPREQUEST on hn0 to 192.0.2.1 port 67",
      "DHCPACK from 192.0.2.1",
      "bound to 192.0.2.50 -- renewal in 1800 seconds.",
    ]);
    client.release();
    segment.timers.advance(10 * SECOND);
    expect(server.heard.at(-1)).toBe("release to 192.0.2.1 by 192.0.2.50");
    expect(addresses(host)).toEqual([]);
    expect(host.stack.routes.defaultGateway).toBeUndefined();
    segment.timers.advance(3600 * SECOND);
    expect(server.heard).toHaveLength(3);
  });

  test("goes on without the server until the lease ends, then looks for another", async () => {
    const { segment, server, host, lines, begin } = await network();
    begin();
    segment.timers.advance(5 * SECOND);
    server.isSilent = true;
    segment.timers.advance(3590 * SECOND);
    expect(addresses(host)).toEqual(["192.0.2.50"]);
    // First that server, then all.
    const asked = lines.slice(5).map((line) => line.split(" ")[4]);
    expect(asked.indexOf("255.255.255.255")).toBeGreaterThan(0);
    expect(asked.slice(asked.indexOf("255.255.255.255"))).not.toContain("192.0.2.1");
    segment.timers.advance(10 * SECOND);
    expect(addresses(host)).toEqual([]);
    expect(host.stack.routes.defaultGateway).toBeUndefined();
    segment.timers.advance(100 * SECOND);
    expect(lines.slice(-2)).toEqual([
      "No DHCPOFFERS received.",
      "No working leases in persistent database - sleeping.",
    ]);
    server.isSilent = false;
    segment.timers.advance(310 * SECOND);
    expect(addresses(host)).toEqual(["192.0.2.50"]);
  });

  test("declines an address that another station has, and takes the next one", async () => {
    const { segment, server, host, begin } = await network();
    const third = await testHost(segment, 3);
    third.hn0.addAddress(ADDRESS, 0xffffff00);
    segment.timers.advance(10 * SECOND);
    begin();
    segment.timers.advance(5 * SECOND);
    expect(server.heard).toEqual([
      "discover",
      "request 192.0.2.50 to 192.0.2.1",
      "decline 192.0.2.50 to 192.0.2.1",
    ]);
    expect(addresses(host)).toEqual([]);
    server.offered = "192.0.2.60";
    segment.timers.advance(20 * SECOND);
    expect(addresses(host)).toEqual(["192.0.2.60"]);
    expect(third.log).toEqual([]);
  });

  test("asks for the lease of earlier when it begins, and when the link is back", async () => {
    const { segment, server, host, begin } = await network();
    const first = begin();
    segment.timers.advance(5 * SECOND);
    const known = first.lease;
    first.close();
    host.hn0.removeAddress(ADDRESS);
    server.heard.length = 0;
    begin(known);
    segment.timers.advance(5 * SECOND);
    expect(server.heard).toEqual(["request 192.0.2.50"]);
    expect(addresses(host)).toEqual(["192.0.2.50"]);
    // Another network: its server refuses, and offers something else.
    host.device.setLink(false);
    server.refuses = true;
    host.device.setLink(true);
    segment.timers.advance(100);
    expect(addresses(host)).toEqual([]);
    server.refuses = false;
    server.offered = "192.0.2.60";
    segment.timers.advance(20 * SECOND);
    expect(addresses(host)).toEqual(["192.0.2.60"]);
    expect(server.heard.slice(1, 3)).toEqual(["request 192.0.2.50", "discover"]);
  });

  test("asks again and again, more and more seldom", async () => {
    const { segment, server, lines, begin } = await network();
    server.isSilent = true;
    begin();
    segment.timers.advance(59 * SECOND);
    expect(lines.map((line) => line.replace(/.*interval /, ""))).toEqual(["4", "8", "16", "32"]);
  });

  test("gets its address whatever frames get lost", async () => {
    for (let seed = 1; seed <= 30; seed++) {
      const { segment, host, begin } = await network(seed + 10);
      const random = new SeededRandom(seed);
      segment.loses = () => random.next() % 3 === 0;
      begin();
      segment.timers.advance(900 * SECOND);
      expect([seed, addresses(host)]).toEqual([seed, ["192.0.2.50"]]);
    }
  });

  test("leaves a route alone that somebody else has set, and says what the interface cannot do", async () => {
    const { segment, server, host, lines, begin } = await network();
    host.hn0.addAddress(parseAddress("198.51.100.2")!, 0xffffff00);
    const own = parseAddress("198.51.100.1")!;
    host.stack.routes.addDefault(own);
    server.options = { ...server.options, 26: [0xff, 0xff], 3: [203, 0, 113, 1] };
    const client = begin();
    segment.timers.advance(5 * SECOND);
    expect(host.stack.routes.defaultGateway).toBe(own);
    await Promise.resolve();
    expect(lines).toContain("hn0: mtu 65535: Error: Invalid argument");
    client.release();
    expect(host.stack.routes.defaultGateway).toBe(own);
    host.stack.routes.deleteDefault();
    begin();
    segment.timers.advance(5 * SECOND);
    expect(lines).toContain("203.0.113.1: the router is on no network of hn0");
  });
});
