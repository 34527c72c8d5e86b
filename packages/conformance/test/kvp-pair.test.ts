import { beforeEach, expect, test } from "vitest";
import { GuestMemory, PageAllocator, type ChannelHandler } from "@hyperv-is/vmbus-core";
import { DeviceClass, PAGE_SIZE, type Guid } from "@hyperv-is/vmbus-core/protocol";
import {
  connectedChannels,
  VirtualTimers,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import {
  attachDaemon,
  KvpDaemon,
  KvpService,
  MemoryPools,
  type IpConfigurator,
  type KvpDeviceFile,
  type KvpOptions,
} from "@hyperv-is/hv-kvp";
import {
  formatIpSettings,
  freebsdDialect,
  KvpOperation,
  linuxDialect,
  parseIpSettings,
  type IpSettings,
  type KvpRequest,
} from "@hyperv-is/hv-kvp/protocol";
import { IcChannel } from "@hyperv-is/hv-utils";
import {
  FaultPlan,
  type Fault,
  type GuestError,
  KeyValueExchange,
  type GuestItem,
  type KvpConfig,
  type KvpResult,
} from "@hyperv-is/hyperv-host";

const RING_PAGES = 4;
const DEVICE = {
  classId: DeviceClass.kvp.classId,
  instanceId: "242ff919-07db-4180-9c2e-b86cb68c8c55" as Guid,
};
const NIC = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}";
const MAC = "00:15:5D:01:02:03";

const settings = parseIpSettings({
  dhcp: false,
  addresses: ["198.51.100.10/24", "2001:db8::10/64"],
  gateways: ["198.51.100.1"],
  dnsServers: ["198.51.100.53"],
})!;

/** The guest's network: one adapter. */
class OneAdapter implements IpConfigurator {
  settings: IpSettings = { dhcp: true, addresses: [], gateways: [], dnsServers: [] };

  read(mac: string): Promise<IpSettings | undefined> {
    return Promise.resolve(mac === MAC ? this.settings : undefined);
  }

  apply(adapterId: string, given: IpSettings): Promise<boolean> {
    if (adapterId !== NIC && adapterId !== "hn0") return Promise.resolve(false);
    this.settings = given;
    return Promise.resolve(true);
  }
}

/** Our guest's driver and daemon and our host's exchange, on one channel, in virtual time. */
class World {
  readonly timers = new VirtualTimers();
  readonly violations: string[] = [];
  readonly host: KeyValueExchange;
  readonly guest: KvpService;
  readonly pools = new MemoryPools();
  readonly network = new OneAdapter();
  readonly faults: FaultPlan;
  /** The guest's end of the channel. */
  readonly channel: IcChannel;
  readonly #pair: ConnectedChannels;

  constructor(options: KvpOptions = {}, config?: KvpConfig, faults: readonly Fault[] = []) {
    const { timers } = this;
    const memory = new GuestMemory(new ArrayBuffer(2 * RING_PAGES * PAGE_SIZE));
    this.host = new KeyValueExchange(config);
    const right = this.host.component.open(DEVICE, {
      memory,
      timers,
      faults: (this.faults = new FaultPlan({ faults }, timers)),
      gpadl: () => undefined,
      schedule: () => undefined,
      offerSubChannels: () => undefined,
      rescind: () => undefined,
      violation: (rule, detail) => void this.violations.push(`${rule}: ${detail}`),
    });
    let pair: ConnectedChannels | undefined;
    const channel = (this.channel = new IcChannel(
      {
        memory,
        allocator: new PageAllocator(memory, 0, PAGE_SIZE),
        timers,
        bindChannel: (_, left: ChannelHandler) => {
          pair = connectedChannels({ left, right, ringPages: RING_PAGES });
          return pair.left;
        },
        unbindChannel: () => undefined,
      },
      { channel: {} as never },
    ));
    this.#pair = pair!;
    this.guest = new KvpService(channel, timers, options);
    channel.serve(this.guest);
    right.opened(this.#pair.right);
    this.run();
  }

  run(): void {
    this.#pair.run();
  }

  attachDaemon(): KvpDeviceFile {
    const { dialect } = this.guest.device;
    const { pools, network } = this;
    const facts = {
      read: () =>
        Promise.resolve({
          fullyQualifiedDomainName: "guest.example",
          integrationServicesVersion: "3.1",
          addresses: network.settings.addresses.map(({ address }) => address),
          osName: "FreeBSD",
          osVersion: "14.1",
          kernelRelease: "14.1-RELEASE",
          machine: "amd64",
        }),
    };
    const daemon = new KvpDaemon({ dialect, pools, facts, network });
    const file = attachDaemon(this.guest.device, daemon);
    this.run();
    return file!;
  }

  async ask(request: KvpRequest): Promise<KvpResult> {
    let result: KvpResult | undefined;
    this.host.ask(request, (found) => (result = found));
    return this.#settled(() => result);
  }

  async enumerate(pool: number): Promise<readonly GuestItem[] | GuestError> {
    let result: readonly GuestItem[] | GuestError | undefined;
    this.host.enumerate(pool, (found) => (result = found));
    return this.#settled(() => result);
  }

  /** Lets both sides run, and the daemon between them, until there is a result. */
  async #settled<Result>(result: () => Result | undefined): Promise<Result> {
    for (let turns = 0; turns < 100_000; turns++) {
      this.run();
      const found = result();
      if (found !== undefined) return found;
      await Promise.resolve();
    }
    throw new Error("no result");
  }
}

let world: World;

beforeEach(() => {
  world = new World();
  return () => expect(world.violations).toEqual([]);
});

test("the host sets, enumerates and deletes in both dialects", async () => {
  for (const dialect of [freebsdDialect, linuxDialect]) {
    world = new World({ dialect });
    world.attachDaemon();
    expect(world.host.stats).toMatchObject({ state: "ready", messageVersion: "5.0" });
    const { set } = KvpOperation;
    expect(await world.ask({ operation: set, pool: 0, key: "größe", value: "😀" })).toEqual({
      kind: "done",
    });
    await world.ask({ operation: set, pool: 0, key: "n", value: 4_000_000_000 });
    await world.ask({ operation: set, pool: 0, key: "q", value: 2n ** 63n });
    expect(await world.enumerate(0)).toEqual([
      { key: "größe", value: "😀" },
      { key: "n", value: "4000000000" },
      { key: "q", value: "9223372036854775808" },
    ]);
    const gone = { operation: KvpOperation.delete, pool: 0, key: "n" } as const;
    expect(await world.ask(gone)).toEqual({ kind: "done" });
    expect(await world.ask(gone)).toEqual({ kind: "none" });
    expect(await world.ask({ operation: KvpOperation.get, pool: 0, key: "q" })).toMatchObject({
      item: { value: "9223372036854775808" },
    });
    expect(await world.enumerate(3)).toEqual([]);
    const auto = (await world.enumerate(2)) as readonly GuestItem[];
    expect(auto).toHaveLength(10);
    expect(auto[5]).toEqual({ key: "OSName", value: "FreeBSD" });
  }
});

test.each([
  [5, "5.0"],
  [4, "4.0"],
])("addresses are set and read back in messages of version %i", async (major, version) => {
  world = new World({ versions: [major << 16] });
  world.attachDaemon();
  expect(world.host.stats.messageVersion).toBe(version);
  const set = { operation: KvpOperation.setIpInfo, adapterId: NIC, settings } as const;
  expect(await world.ask(set)).toEqual({ kind: "done" });
  const read = await world.ask({ operation: KvpOperation.getIpInfo, adapterId: MAC });
  expect(read.kind === "done" && formatIpSettings(read.settings!)).toEqual(
    formatIpSettings(settings),
  );
  const other = { ...set, adapterId: "{00000000-0000-0000-0000-000000000001}" };
  expect(await world.ask(other)).toMatchObject({ error: { code: "ERR_GUEST_REFUSED" } });
});

test("what a host has for a guest waits for its daemon, and reaches it with the first agreement", async () => {
  const atAgreement: KvpRequest[] = [
    { operation: KvpOperation.setIpInfo, adapterId: NIC, settings },
    { operation: KvpOperation.set, pool: 3, key: "HostName", value: "b.example" },
  ];
  world = new World({}, { atAgreement });
  world.timers.advance(600_000);
  expect(world.host.stats.state).toBe("negotiating");
  expect(await world.enumerate(0)).toMatchObject({
    code: "ERR_GUEST_NOT_READY",
    message: expect.stringContaining("has no daemon of key-value pairs yet") as string,
  });
  world.attachDaemon();
  expect(await world.enumerate(3)).toEqual([{ key: "HostName", value: "b.example" }]);
  expect(world.network.settings).toEqual(settings);
});

test("a key that the guest deletes is set again by the next agreement", async () => {
  const set = { operation: KvpOperation.set, pool: 0, key: "role", value: "primary" } as const;
  world = new World({}, { atAgreement: [set] });
  world.attachDaemon();
  await world.enumerate(0);
  world.pools.delete(0, "role");
  world.host.component.renegotiate();
  world.run();
  expect(await world.enumerate(0)).toEqual([{ key: "role", value: "primary" }]);
});

const setGreen = { operation: KvpOperation.set, pool: 0, key: "color", value: "green" } as const;
const green = [{ key: "color", value: "green" }];

/** A guest in FreeBSD's dialect whose host misbehaves, with a daemon. */
function troubled(fault: Fault): World {
  world = new World({}, {}, [fault]);
  world.attachDaemon();
  return world;
}

test.each([
  ["short", "dropped"],
  ["pipe-length", "dropped"],
  ["size", "dropped"],
  ["response", "dropped"],
  ["type", "refused"],
] as const)("a message with a wrong frame (%s) is %s", async (damage, counter) => {
  const { channel } = troubled({ kind: "malformed-message", damage });
  const refused = channel.counters.refused;
  expect(await world.ask(setGreen)).toEqual({ kind: "done" });
  expect(await world.enumerate(0)).toEqual(green);
  expect(channel.counters[counter] - (counter === "refused" ? refused : 0)).toBe(3);
  expect(world.host.stats.state).toBe("ready");
});

test.each(["operation", "pool", "index", "key-size", "key-end", "value-size", "address"] as const)(
  "a request that is wrong (%s) is refused, and changes nothing",
  async (damage) => {
    for (const dialect of [freebsdDialect, linuxDialect])
      for (const message of [4, 5]) {
        world = new World({ dialect, versions: [message << 16] }, {}, [
          { kind: "malformed-kvp", damage },
        ]);
        world.attachDaemon();
        const { counters } = world.guest;
        expect(await world.ask(setGreen)).toEqual({ kind: "done" });
        expect(await world.enumerate(0)).toEqual(green);
        const set = { operation: KvpOperation.setIpInfo, adapterId: NIC, settings } as const;
        expect(await world.ask(set)).toEqual({ kind: "done" });
        expect(counters).toMatchObject({ refused: 4, answered: 4 });
        expect(world.violations).toEqual([]);
      }
  },
);

test("a request that comes twice has two answers, and one result", async () => {
  const { channel } = troubled({ kind: "repeated-request" });
  expect(await world.ask(setGreen)).toEqual({ kind: "done" });
  expect(await world.enumerate(0)).toEqual(green);
  // The agreement, three requests, and each of them again.
  expect(channel.counters.answers).toBe(7);
  expect(world.host.stats).toMatchObject({ answered: 3, failed: 0 });
});

test("a request that is late is answered when it comes", async () => {
  const { timers } = troubled({ kind: "late-request", delayMs: 500, count: 1 });
  const results: KvpResult[] = [];
  world.host.ask(setGreen, (result) => void results.push(result));
  timers.advance(499);
  world.run();
  expect(world.channel.counters.requests).toBe(0);
  timers.advance(1);
  expect(await world.enumerate(0)).toEqual(green);
  expect(results).toEqual([{ kind: "done" }]);
});

test("a request that is kept back is void once the conversation begins anew", async () => {
  const { timers } = troubled({ kind: "late-request", delayMs: 500, count: 1 });
  const asked = world.ask(setGreen);
  world.host.component.renegotiate();
  expect(await asked).toMatchObject({ kind: "failed", error: { code: "ERR_GUEST_GONE" } });
  timers.advance(500);
  expect(await world.enumerate(0)).toEqual([]);
  expect(world.channel.counters.negotiations).toBe(2);
});

test("versions that are agreed on anew end a request, and the next one goes on", async () => {
  const { channel } = troubled({ kind: "renegotiation", nth: 1 });
  expect(await world.ask(setGreen)).toMatchObject({
    kind: "failed",
    error: { code: "ERR_GUEST_GONE" },
  });
  world.run();
  expect(await world.ask(setGreen)).toEqual({ kind: "done" });
  expect(channel.counters.negotiations).toBe(2);
  expect(world.faults.counts).toEqual([1]);
});

test("a daemon that has ended is what a host is told of when nobody answers", async () => {
  const daemon = world.attachDaemon();
  daemon.close();
  const asked = world.ask(setGreen);
  world.timers.advance(35_000);
  expect(await asked).toMatchObject({
    kind: "failed",
    error: {
      code: "ERR_GUEST_SILENT",
      message: expect.stringContaining("its daemon of key-value pairs may have ended") as string,
    },
  });
  world.attachDaemon();
  // The request is carried out all the same; until then nothing else may be asked.
  while (world.host.stats.state !== "ready") {
    await Promise.resolve();
    world.run();
  }
  expect(await world.enumerate(0)).toEqual(green);
});
