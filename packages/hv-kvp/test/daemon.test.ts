import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { IcStatus } from "@hyperv-is/hv-utils/protocol";
import { beforeEach, describe, expect, test } from "vitest";
import {
  autoItems,
  KvpDaemon,
  KvpError,
  type GuestFacts,
  type IpConfigurator,
} from "../src/index.js";
import { PoolFiles } from "../src/node/index.js";
import * as protocol from "../src/protocol/index.js";
import { temporaryDirectory } from "./temporary-directory.js";
import { body } from "./vectors.js";

const { freebsdDialect, linuxDialect, KvpOperation } = protocol;
const path = temporaryDirectory();

const facts: GuestFacts = {
  fullyQualifiedDomainName: "guest.example",
  integrationServicesVersion: "3.1",
  addresses: ["192.0.2.10", "fd00::2", "198.51.100.7"].map((text) =>
    protocol.parseIpAddress(text)!,
  ),
  osName: "FreeBSD",
  osVersion: "14.1",
  kernelRelease: "14.1-RELEASE-p3",
  machine: "amd64",
};

/** What a network was told, and what it does then. */
class RecordedNetwork implements IpConfigurator {
  readonly applied: [string, protocol.IpSettings][] = [];
  outcome: boolean | KvpError = true;

  read(mac: string): Promise<protocol.IpSettings | undefined> {
    return Promise.resolve(mac === "00:15:5D:01:02:03" ? settings : undefined);
  }

  apply(adapterId: string, given: protocol.IpSettings): Promise<boolean> {
    this.applied.push([adapterId, given]);
    const { outcome } = this;
    return typeof outcome === "boolean" ? Promise.resolve(outcome) : Promise.reject(outcome);
  }
}

const { settings } = protocol.parseIpAnswer(body("V25"), "text")!;

let count = 0;
let pools: PoolFiles;
let network: RecordedNetwork;
let failures: string[];
let current: GuestFacts;

beforeEach(() => {
  pools = new PoolFiles(path(String(count++)));
  network = new RecordedNetwork();
  failures = [];
  current = facts;
});

function daemonOf(dialect = freebsdDialect): KvpDaemon {
  return new KvpDaemon({
    dialect,
    pools,
    network,
    facts: { read: () => Promise.resolve(current) },
    failed: ({ code }) => failures.push(code),
  });
}

async function ask(
  daemon: KvpDaemon,
  request: protocol.DeviceRequest | Uint8Array,
): Promise<{ status: number; item: protocol.KvpItem; message: Uint8Array }> {
  const sent =
    request instanceof Uint8Array ? request : protocol.emitDeviceRequest(daemon.dialect, request);
  const message = (await daemon.answer(sent))!;
  const status = protocol.deviceStatus(message);
  return { status, item: protocol.parseDeviceItem(message, sent[0]!), message };
}

/** A SET with raw bytes in the places of key and value. */
function rawSet(pool: number, key: Uint8Array, value = new Uint8Array(1)): Uint8Array {
  const request = { operation: KvpOperation.set, pool, key: "k", value: "" } as const;
  const message = protocol.emitDeviceRequest(freebsdDialect, request);
  message.fill(0, 16).set(key, 16);
  message.set(value, 528);
  return message;
}

describe.each([freebsdDialect, linuxDialect])("$name", (dialect) => {
  test("a key is set, found, enumerated and deleted", async () => {
    const daemon = daemonOf(dialect);
    const { get, set, enumerate } = KvpOperation;
    expect((await ask(daemon, { operation: get, pool: 0, key: "a" })).status).toBe(
      IcStatus.noMoreItems,
    );
    await ask(daemon, { operation: set, pool: 0, key: "a", value: "1" });
    await ask(daemon, { operation: set, pool: 0, key: "b", value: "2" });
    expect((await ask(daemon, { operation: get, pool: 0, key: "a" })).item.value).toBe("1");
    expect((await ask(daemon, { operation: enumerate, pool: 0, index: 1 })).item.key).toBe("b");
    expect((await ask(daemon, { operation: enumerate, pool: 0, index: 2 })).status).toBe(
      IcStatus.noMoreItems,
    );
    const gone = { operation: KvpOperation.delete, pool: 0, key: "a" } as const;
    expect((await ask(daemon, gone)).status).toBe(IcStatus.ok);
    expect((await ask(daemon, gone)).status).toBe(IcStatus.noMoreItems);
    expect(pools.items(0)).toEqual([{ key: "b", value: "2" }]);
  });
});

test("of a key that is there several times GET has the last value, as hosts do", async () => {
  mkdirSync(pools.directory, { recursive: true });
  const items = ["1", "2", "3"].map((value) => ({ key: "key", value }));
  writeFileSync(pools.path(1), protocol.emitPool(items));
  const get = { operation: KvpOperation.get, pool: 1, key: "key" } as const;
  expect((await ask(daemonOf(), get)).item.value).toBe("3");
});

test("nothing is deleted from pool 2, whatever its file has", async () => {
  pools.set(2, { key: "color", value: "green" });
  const gone = { operation: KvpOperation.delete, pool: 2, key: "color" } as const;
  expect((await ask(daemonOf(), gone)).status).toBe(IcStatus.noMoreItems);
  expect(pools.items(2)).toHaveLength(1);
});

describe("hostile messages, which stock kernels pass on", () => {
  const key = new TextEncoder().encode("key");
  test.each([
    ["pool 200", rawSet(200, key), IcStatus.invalidArgument],
    ["pool 9", rawSet(9, key), IcStatus.invalidArgument],
    ["pool 2", rawSet(2, key), IcStatus.noMoreItems],
    [
      "a key of 512 bytes without NUL",
      rawSet(0, new Uint8Array(512).fill(65)),
      IcStatus.invalidArgument,
    ],
    [
      "a value without NUL",
      rawSet(0, key, new Uint8Array(2048).fill(65)),
      IcStatus.invalidArgument,
    ],
    ["a line feed in a key", rawSet(0, new TextEncoder().encode("a\nb")), IcStatus.invalidArgument],
    ["no key", rawSet(0, new Uint8Array(1)), IcStatus.invalidArgument],
  ])("%s", async (_, message, status) => {
    pools.set(0, { key: "color", value: "green" });
    const before = readFileSync(pools.path(0));
    expect((await ask(daemonOf(), message)).status).toBe(status);
    expect(readFileSync(pools.path(0))).toEqual(before);
    expect(readdirSync(pools.directory)).toEqual([".kvp_pool_0"]);
  });

  test("index 0xffffffff is past the end, not before the start", async () => {
    pools.set(0, { key: "color", value: "green" });
    const request = { operation: KvpOperation.enumerate, pool: 0, index: 0xffff_ffff } as const;
    expect((await ask(daemonOf(), request)).status).toBe(IcStatus.noMoreItems);
  });

  test("an unknown operation", async () => {
    const message = new Uint8Array(7430);
    message[0] = 77;
    expect((await ask(daemonOf(), message)).status).toBe(IcStatus.notSupported);
  });

  test.each([
    ["a netmask with another line in it", "subnets", "255.255.255.0;x\nEVIL=1"],
    ["an address of 100 characters", "addresses", "1".repeat(100)],
    ["a command for a gateway", "gateways", "$(reboot)"],
  ] as const)("%s reaches no network", async (_, field, text) => {
    const adapter = { adapterId: "hn0", settings };
    const message = protocol.emitDeviceRequest(freebsdDialect, {
      operation: KvpOperation.setIpInfo,
      adapter,
    });
    const at = 4 + protocol.IpTextLayout[field];
    message.fill(0, at, at + 1000).set(new TextEncoder().encode(text), at);
    expect((await ask(daemonOf(), message)).status).toBe(IcStatus.invalidArgument);
    expect(network.applied).toEqual([]);
  });
});

describe("pool 2", () => {
  async function enumerate(daemon: KvpDaemon): Promise<protocol.KvpItem[]> {
    const items: protocol.KvpItem[] = [];
    for (let index = 0; ; index++) {
      const request = { operation: KvpOperation.enumerate, pool: 2, index } as const;
      const { status, item } = await ask(daemon, request);
      if (status !== IcStatus.ok) return items;
      items.push(item);
    }
  }

  test("has the ten keys in their order", async () => {
    expect(await enumerate(daemonOf())).toEqual([
      { key: "FullyQualifiedDomainName", value: "guest.example" },
      { key: "IntegrationServicesVersion", value: "3.1" },
      { key: "NetworkAddressIPv4", value: "192.0.2.10;198.51.100.7" },
      { key: "NetworkAddressIPv6", value: "fd00::2" },
      { key: "OSBuildNumber", value: "14.1" },
      { key: "OSName", value: "FreeBSD" },
      { key: "OSMajorVersion", value: "14" },
      { key: "OSMinorVersion", value: "1" },
      { key: "OSVersion", value: "14.1" },
      { key: "ProcessorArchitecture", value: "amd64" },
    ]);
  });

  test("is asked anew by each enumeration, and not in the middle of one", async () => {
    const daemon = daemonOf();
    await enumerate(daemon);
    current = { ...facts, machine: "arm64" };
    const last = { operation: KvpOperation.enumerate, pool: 2, index: 9 } as const;
    expect((await ask(daemon, last)).item.value).toBe("amd64");
    expect((await enumerate(daemon))[9]?.value).toBe("arm64");
  });

  test("has index 2 also without an address: tools wait for it", async () => {
    current = { ...facts, addresses: [] };
    const third = { operation: KvpOperation.enumerate, pool: 2, index: 2 } as const;
    const answer = await ask(daemonOf(), third);
    expect(answer).toMatchObject({
      status: IcStatus.ok,
      item: { key: "NetworkAddressIPv4", value: "" },
    });
  });

  test("of Linux has the whole release as the build", () => {
    const linux = { ...facts, kernelRelease: "6.1.0-18-amd64", osVersion: "12" };
    const values = new Map(autoItems(linux, true).map(({ key, value }) => [key, value]));
    expect(values.get("OSBuildNumber")).toBe("6.1.0-18-amd64");
    expect(values.get("OSVersion")).toBe("6.1.0");
    expect([values.get("OSMajorVersion"), values.get("OSMinorVersion")]).toEqual(["12", ""]);
  });

  test("lists as many addresses as fit an answer, whole ones", () => {
    const addresses = Array.from({ length: 200 }, (_, index) => Uint8Array.of(203, 0, 113, index));
    const list = autoItems({ ...facts, addresses }, false)[2]!.value;
    expect(list.length).toBeLessThanOrEqual(1022);
    expect(list.split(";").every((text) => protocol.parseIpAddress(text) !== undefined)).toBe(true);
  });
});

describe("addresses", () => {
  test("are read by MAC", async () => {
    const request = { operation: KvpOperation.getIpInfo, adapterId: "00:15:5D:01:02:03" } as const;
    const { status, message } = await ask(daemonOf(), request);
    expect(status).toBe(IcStatus.ok);
    expect(protocol.parseDeviceSettings(message)).toEqual({
      adapterId: request.adapterId,
      settings,
    });
    for (const adapterId of ["00:15:5D:01:02:04", "", "00:15:5D"])
      expect((await ask(daemonOf(), { ...request, adapterId })).status).toBe(IcStatus.fail);
  });

  test("an adapter that is not there, and a failure to set it, reach the host as statuses", async () => {
    const request = {
      operation: KvpOperation.setIpInfo,
      adapter: { adapterId: "hn0", settings },
    } as const;
    const daemon = daemonOf();
    expect((await ask(daemon, request)).status).toBe(IcStatus.ok);
    expect(network.applied).toEqual([["hn0", settings]]);
    network.outcome = false;
    expect((await ask(daemon, request)).status).toBe(IcStatus.notFound);
    network.outcome = new KvpError("ERR_KVP_NETWORK", "ifconfig: no permission");
    expect((await ask(daemon, request)).status).toBe(IcStatus.fail);
    expect(failures).toEqual(["ERR_KVP_NETWORK"]);
  });
});

test("a pool that cannot be written fails the request, not the daemon", async () => {
  mkdirSync(join(pools.path(0)), { recursive: true });
  const set = { operation: KvpOperation.set, pool: 0, key: "a", value: "1" } as const;
  const daemon = daemonOf();
  expect((await ask(daemon, set)).status).toBe(IcStatus.fail);
  expect(failures).toEqual(["ERR_KVP_POOL_FILE"]);
  expect((await ask(daemon, { ...set, pool: 1 })).status).toBe(IcStatus.ok);
});

test("what a program put into a pool, however wrong, is enumerated as far as it goes", async () => {
  mkdirSync(pools.directory, { recursive: true });
  writeFileSync(pools.path(1), new Uint8Array(2560).fill(0xff));
  const { status, item } = await ask(daemonOf(), {
    operation: KvpOperation.enumerate,
    pool: 1,
    index: 0,
  });
  expect(status).toBe(IcStatus.ok);
  expect(item.key).toBe("\ufffd".repeat(170));
});

test("two registrations in sequence: the second daemon serves what the first has stored", async () => {
  const first = daemonOf();
  await ask(first, { operation: KvpOperation.set, pool: 0, key: "early", value: "1" });
  const second = daemonOf();
  second.registration();
  const get = { operation: KvpOperation.get, pool: 0, key: "early" } as const;
  expect((await ask(second, get)).item.value).toBe("1");
});

test("Linux's kernel answers the registration with its version, which is no request", async () => {
  const daemon = daemonOf(linuxDialect);
  daemon.registration();
  expect(await daemon.answer(protocol.emitRegistration(linuxDialect, 100, "3.1"))).toBeUndefined();
  expect(daemon.kernelVersion).toBe("3.1");
  // Once only: after that it is an operation that there is not.
  const again = protocol.emitRegistration(linuxDialect, 100, "3.1");
  expect((await ask(daemon, again)).status).toBe(IcStatus.notSupported);
  daemon.registration();
  expect(await daemon.answer(again)).toBeUndefined();
});
