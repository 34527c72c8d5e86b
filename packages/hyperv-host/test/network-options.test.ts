import { parseArgs } from "node:util";
import { describe, expect, test } from "vitest";
import { networkAdapterId, type NetworkConfig } from "../src/index.js";
import {
  HostOptionError,
  networkOptions,
  networkOptionsUsage,
  parseNetworkOptions,
  parseNic,
} from "../src/node/index.js";

const parse = (...args: string[]): NetworkConfig | undefined =>
  parseNetworkOptions(parseArgs({ args, options: networkOptions }).values, "web");

const mac = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);

describe("what a user may say of the network", () => {
  test("nothing", () => {
    expect(parse()).toBeUndefined();
  });

  test("adapters at switches, each with its id and address", () => {
    expect(
      parse(
        ...["--switch", "lan", "--switch", "dmz,uplink=socket:/run/p", "--nic", "switch=lan"],
        ...["--nic", "spoof=on,vlan=7,switch=dmz,mac=00:15:5D:0a:01:02", "--nic", "switch=lan"],
      ),
    ).toEqual({
      switches: [{ name: "lan" }, { name: "dmz", uplinks: [{ kind: "socket", path: "/run/p" }] }],
      adapters: [
        {
          switch: "lan",
          instanceId: networkAdapterId(0),
          mac: expect.any(Uint8Array) as Uint8Array,
        },
        {
          switch: "dmz",
          instanceId: networkAdapterId(1),
          mac: mac(0x00, 0x15, 0x5d, 0x0a, 1, 2),
          allowMacSpoofing: true,
          vlan: { mode: "access", id: 7 },
        },
        {
          switch: "lan",
          instanceId: networkAdapterId(2),
          mac: expect.any(Uint8Array) as Uint8Array,
        },
      ],
    });
  });

  test("a switch without adapters", () => {
    expect(parse("--switch", "lan")).toEqual({ switches: [{ name: "lan" }], adapters: [] });
  });

  test.each([
    ["lan,uplink=socket:a", { path: "a" }],
    ["lan,uplink=socket:a,listen", { path: "a", listen: true }],
    ["lan,uplink=socket:odd,name", { path: "odd,name" }],
    ["lan,uplink=socket:odd,listen,listen", { path: "odd,listen", listen: true }],
  ])("--switch %s", (text, uplink) => {
    const [lan] = parse("--switch", text)!.switches;
    expect(lan).toEqual({ name: "lan", uplinks: [{ kind: "socket", ...uplink }] });
  });

  test.each([
    ["lan,uplink=tap:t0", [{ kind: "tap", name: "t0" }]],
    ["lan,uplink=tap:t0@red", [{ kind: "tap", name: "t0", netns: "red" }]],
    [
      "lan,uplink=socket:/a,listen,uplink=tap:t0,uplink=socket:/b",
      [
        { kind: "socket", path: "/a", listen: true },
        { kind: "tap", name: "t0" },
        { kind: "socket", path: "/b" },
      ],
    ],
  ])("--switch %s leads to several networks", (text, uplinks) => {
    expect(parse("--switch", text)!.switches).toEqual([{ name: "lan", uplinks }]);
  });

  test.each([
    ["vlan=1", { vlan: { mode: "access", id: 1 } }],
    ["vlan=4094", { vlan: { mode: "access", id: 4094 } }],
    ["vlan=trunk", { vlan: { mode: "trunk", nativeId: 0 } }],
    ["spoof=off", { allowMacSpoofing: false }],
    ["bandwidth=9600", { bandwidth: { bitsPerSecond: 9600 } }],
    ["bandwidth=64k", { bandwidth: { bitsPerSecond: 64_000 } }],
    ["bandwidth=100M", { bandwidth: { bitsPerSecond: 100_000_000 } }],
    ["bandwidth=2.5G", { bandwidth: { bitsPerSecond: 2_500_000_000 } }],
  ])("--nic switch=lan,%s", (words, expected) => {
    expect(parseNic(`switch=lan,${words}`).nic).toEqual({ switch: "lan", ...expected });
  });

  test("words that a program has of its own", () => {
    const { nic, own } = parseNic("stack=tap:a=b,switch=lan", ["stack"]);
    expect([nic, [...own]]).toEqual([{ switch: "lan" }, [["stack", "tap:a=b"]]]);
    expect(() => parseNic("stack=a,stack=b,switch=lan", ["stack"])).toThrow(/said twice/);
  });

  test.each([
    ["the switch is missing", ["--nic", "mac=00:15:5d:00:00:01"]],
    ["there is no switch lan: add --switch lan", ["--nic", "switch=lan"]],
    ["or take one of a, b", ["--nic", "switch=lan", "--switch", "a", "--switch", "b"]],
    ["there are two switches a", ["--switch", "a", "--switch", "a,uplink=socket:b"]],
    ["'stack' is none of switch, mac, vlan, spoof, bandwidth", ["--nic", "switch=a,stack=builtin"]],
    ["write an address as", ["--nic", "switch=a,mac=00:15:5d"]],
    ["of a group, or of nobody", ["--switch", "a", "--nic", "switch=a,mac=01:00:5e:00:00:01"]],
    ["vlan is 1 to 4094", ["--nic", "switch=a,vlan=4095"]],
    ["vlan is 1 to 4094", ["--nic", "switch=a,vlan=0"]],
    ["spoof is on or off", ["--nic", "switch=a,spoof=yes"]],
    ["bandwidth is bits per second", ["--nic", "switch=a,bandwidth=0"]],
    ["bandwidth is bits per second", ["--nic", "switch=a,bandwidth=-1M"]],
    ["bandwidth is bits per second", ["--nic", "switch=a,bandwidth=100T"]],
    ["bandwidth is bits per second", ["--nic", "switch=a,bandwidth=M"]],
    ["mac has no value", ["--nic", "switch=a,mac"]],
    ["switch is said twice", ["--nic", "switch=a,switch=b"]],
    ["write it as NAME", ["--switch", ""]],
    ["write it as NAME", ["--switch", ",uplink=socket:a"]],
    ["write it as NAME", ["--switch", "lan,listen"]],
    ["an uplink is socket:PATH", ["--switch", "lan,uplink=tap:"]],
    ["an uplink is socket:PATH", ["--switch", "lan,uplink=tap:t0,listen"]],
    ["an uplink is socket:PATH", ["--switch", "lan,uplink=udp:1"]],
    ["an uplink is socket:PATH", ["--switch", "lan,uplink=socket:"]],
  ])("%s: %j is refused", (text, args) => {
    expect(() => parse(...args)).toThrow(HostOptionError);
    expect(() => parse(...args)).toThrow(text);
  });

  test("every option is explained", () => {
    for (const name of Object.keys(networkOptions))
      expect(networkOptionsUsage("[,stack=builtin]")).toContain(`--${name} `);
  });
});
