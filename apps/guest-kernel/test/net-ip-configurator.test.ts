import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import {
  formatIpSettings,
  parseIpSettings,
  type IpSettings,
  type PlainIpSettings,
} from "@hyperv-is/hv-kvp/protocol";
import { beforeEach, expect, test } from "vitest";
import { GuestNetwork } from "../src/net/guest-network.js";
import {
  StackConfigurator,
  type KeptNetwork,
  type StackConfiguratorOptions,
} from "../src/net/ip-configurator.js";
import type { NetworkInterface } from "../src/net/network-interface.js";
import { SeededRandom, Segment, TestDevice } from "./network-link.js";

const INSTANCE = "f8615163-df3e-46c5-913f-f2d2f965ed0e";
const MAC = "00:15:5D:01:02:03";

let network: GuestNetwork;
let hn0: NetworkInterface;
let configurator: StackConfigurator;

function configure(options: Partial<StackConfiguratorOptions> = {}): StackConfigurator {
  const adapters = () => [{ instanceId: INSTANCE, interface: hn0 }];
  return new StackConfigurator({ network, adapters, ...options });
}

beforeEach(() => {
  const timers = new VirtualTimers();
  network = new GuestNetwork({
    timers,
    random: new SeededRandom(1),
    realTimeMs: () => 0,
    hostName: "guest",
    log: () => undefined,
  });
  const device = new TestDevice("hn0", [0, 0x15, 0x5d, 1, 2, 3], new Segment(timers));
  hn0 = network.stack.attach(device);
  device.connect(hn0);
  configurator = configure();
});

const settings = (changed: Partial<PlainIpSettings>) =>
  parseIpSettings({ dhcp: false, addresses: [], gateways: [], dnsServers: [], ...changed })!;

const before = settings({ addresses: ["192.0.2.10/24"], gateways: ["192.0.2.1"] });
const failover = settings({
  addresses: ["198.51.100.10/24", "203.0.113.5/28"],
  gateways: ["198.51.100.1"],
  dnsServers: ["198.51.100.53"],
});

test("the host moves an interface into another subnet, by name or by GUID", async () => {
  expect(await configurator.apply("hn0", before)).toBe(true);
  expect(await configurator.apply(`{${INSTANCE.toUpperCase()}}`, failover)).toBe(true);
  expect(formatIpSettings((await configurator.read(MAC))!)).toEqual(formatIpSettings(failover));
  expect(network.stack.routes.defaultGateway).toBe(0xc633_6401);
  expect(configurator.nameOf(INSTANCE)).toBe("hn0");
});

test("the host has an interface ask for its address, and takes that back", async () => {
  await configurator.apply("hn0", before);
  await configurator.apply("hn0", settings({ dhcp: true }));
  expect(await configurator.read(MAC)).toMatchObject({ dhcp: true, addresses: [], gateways: [] });
  await configurator.apply("hn0", before);
  expect(await configurator.read(MAC)).toMatchObject({ dhcp: false });
});

test("what is not there is said so, and what cannot be done leaves everything as it was", async () => {
  await configurator.apply("hn0", before);
  expect(await configurator.apply("hn1", failover)).toBe(false);
  expect(await configurator.apply("lo0", failover)).toBe(false);
  expect(await configurator.read("00:15:5D:01:02:04")).toBeUndefined();
  const ipv6 = settings({ addresses: ["2001:db8::10/64"] });
  await expect(configurator.apply("hn0", ipv6)).rejects.toMatchObject({ code: "ERR_KVP_NETWORK" });
  expect((await configurator.read(MAC))?.addresses).toEqual(before.addresses);
  const unreachable = settings({ addresses: ["192.0.2.10/24"], gateways: ["203.0.113.1"] });
  await expect(configurator.apply("hn0", unreachable)).rejects.toMatchObject({
    code: "ERR_KVP_NETWORK",
  });
});

test("what the host sets is kept, and restored at the next boot as far as the stack can", async () => {
  const kept = new Map<string, IpSettings>();
  const keeper: KeptNetwork = {
    read: (name) => kept.get(name),
    keep: (name, value) => void kept.set(name, value),
  };
  const lines: string[] = [];
  const options = { kept: keeper, log: (line: string) => void lines.push(line) };
  const first = configure(options);
  await first.restore(hn0);
  expect(hn0.isUp).toBe(false);
  await first.apply("hn0", failover);
  expect(kept).toEqual(new Map([["hn0", failover]]));
  const ipv6 = settings({ addresses: ["2001:db8::10/64"] });
  await expect(first.apply("hn0", ipv6)).rejects.toThrow();
  expect(kept.get("hn0")).toBe(failover);

  await first.apply("hn0", before);
  keeper.keep("hn0", {
    ...failover,
    addresses: [...failover.addresses, ...ipv6.addresses],
  });
  const second = configure(options);
  await second.restore(hn0);
  expect(formatIpSettings((await second.read(MAC))!)).toEqual(formatIpSettings(failover));
  expect(network.stack.routes.defaultGateway).toBe(0xc633_6401);

  keeper.keep("hn0", settings({ addresses: ["192.0.2.10/24"], gateways: ["203.0.113.1"] }));
  await configure(options).restore(hn0);
  expect(lines).toEqual(["hn0: Network is unreachable"]);
  keeper.keep("hn0", settings({ dhcp: true }));
  await configure(options).restore(hn0);
  expect(network.dhcpClient(hn0)).toBeDefined();
});
