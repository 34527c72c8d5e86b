import { describe, expect, test } from "vitest";
import type { NicOptions, SwitchOptions } from "@hyperv-is/guest-kernel";
import { formatMac, networkAdapterId } from "@hyperv-is/hyperv-host";
import { NICS_MAX } from "@hyperv-is/hyperv-host/node";
import { networkOf, parseNic } from "../src/machine-network.js";
import { nicBufferBytes } from "../src/kernel/nic-buffers.js";

const refused = (message: string): unknown =>
  expect.objectContaining({
    code: "ERR_NETWORK",
    message: expect.stringContaining(message) as string,
  });

describe("--nic", () => {
  test.each<[string, NicOptions]>([
    ["switch=lan", { switch: "lan" }],
    [
      "switch=lan,mac=00:15:5d:0a:01:01,vlan=5,spoof=on",
      {
        switch: "lan",
        mac: "00:15:5d:0a:01:01",
        vlan: { mode: "access", id: 5 },
        allowMacSpoofing: true,
      },
    ],
    ["spoof=off,switch=a=b", { switch: "a=b", allowMacSpoofing: false }],
    ["switch=lan,stack=builtin", { switch: "lan", stack: { kind: "builtin" } }],
    ["switch=lan,stack=tap:t0", { switch: "lan", stack: { kind: "tap", name: "t0" } }],
    [
      "switch=lan,stack=tap:t0@red",
      { switch: "lan", stack: { kind: "tap", name: "t0", netns: "red" } },
    ],
  ])("%s", (text, nic) => {
    expect(parseNic(text)).toEqual(nic);
  });

  test("another stack is refused", () => {
    expect(() => parseNic("switch=lan,stack=tun:t0")).toThrow(
      "--nic switch=lan,stack=tun:t0: there is no stack 'tun:t0'; it is builtin or tap:NAME[@NETNS]",
    );
  });
});

describe("the network of a machine", () => {
  const lan: readonly SwitchOptions[] = [{ name: "lan" }];
  const macs = (nics: readonly NicOptions[], identity: string): string[] =>
    networkOf(nics, lan, identity, 0).config.adapters.map(({ mac }) => formatMac(mac));

  test("has its adapters at switches, as they were asked for", () => {
    const { config, stacks } = networkOf(
      [
        { switch: "lan", mac: "00-15-5D-0A-01-01", vlan: { mode: "access", id: 5 } },
        { switch: "lan", mac: "00155d0a0102", allowMacSpoofing: true },
      ],
      lan,
      "web",
      3,
    );
    expect(config.adapters.map((adapter) => ({ ...adapter, mac: formatMac(adapter.mac) }))).toEqual(
      [
        {
          instanceId: networkAdapterId(0),
          mac: "00:15:5d:0a:01:01",
          switch: "lan",
          subChannelsMax: 3,
          vlan: { mode: "access", id: 5 },
        },
        {
          instanceId: networkAdapterId(1),
          mac: "00:15:5d:0a:01:02",
          switch: "lan",
          subChannelsMax: 3,
          allowMacSpoofing: true,
        },
      ],
    );
    expect([...stacks.values()]).toEqual([{ kind: "builtin" }, { kind: "builtin" }]);
  });

  test("has addresses made up like Hyper-V's: the same at each boot, others in another machine", () => {
    const two = [{ switch: "lan" }, { switch: "lan" }];
    const web = macs(two, "web");
    expect(web[0]).toMatch(/^00:15:5d(:[\da-f]{2}){3}$/);
    expect(macs(two, "web")).toEqual(web);
    expect(new Set([...web, ...macs(two, "db")]).size).toBe(4);
    // One that somebody else has is not made up.
    expect(macs([{ switch: "lan", mac: web[1]! }, { switch: "lan" }], "web")[1]).not.toBe(web[1]);
  });

  test.each<[string, readonly NicOptions[], readonly SwitchOptions[], string]>([
    [
      "a switch that is missing",
      [{ switch: "lna" }],
      lan,
      "there is no switch lna: add --switch lna, or take one of lan",
    ],
    ["two switches of a name", [], [...lan, ...lan], "there are two switches lan"],
    ["no address", [{ switch: "lan", mac: "00:15" }], lan, "00:15: write an address as"],
    ["the address of a group", [{ switch: "lan", mac: "01:00:5e:00:00:01" }], lan, "of a group"],
    [
      "an address twice",
      Array<NicOptions>(2).fill({ switch: "lan", mac: "00:15:5d:0a:01:01" }),
      lan,
      "two network adapters have the address 00:15:5d:0a:01:01",
    ],
    ["too many", Array<NicOptions>(NICS_MAX + 1).fill({ switch: "lan" }), lan, "at most 8"],
  ])("is refused with %s", (_, nics, switches, message) => {
    expect(() => networkOf(nics, switches, "web", 0)).toThrow(refused(message));
  });
});

describe("buffers", () => {
  const MEGABYTE = 2 ** 20;

  test("are the driver's own where there is room", () => {
    expect(nicBufferBytes(128 * MEGABYTE, 1, 1)).toBeUndefined();
    expect(nicBufferBytes(64 * MEGABYTE, 1, 4)).toBeUndefined();
  });

  test.each([
    [128, 4, 1],
    [64, 2, 4],
    [64, 8, 4],
    [8, 2, 2],
  ])("of all adapters and their rings fit into %d MiB: %d, with %d CPUs", (free, nics, cpus) => {
    const each = nicBufferBytes(free * MEGABYTE, nics, cpus)!;
    expect(each % 4096).toBe(0);
    expect(each).toBeGreaterThanOrEqual(MEGABYTE);
    const rings = cpus * MEGABYTE;
    expect(nics * (2 * each + rings)).toBeLessThanOrEqual(free * MEGABYTE);
  });
});
