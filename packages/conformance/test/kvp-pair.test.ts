import { beforeEach, expect, test } from "vitest";
import { GuestMemory, PageAllocator, type ChannelHandler } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
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
  type GuestError,
  KeyValueExchange,
  type GuestItem,
  type KvpConfig,
  type KvpResult,
} from "@hyperv-is/hyperv-host";

const RING_PAGES = 4;
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
  readonly #pair: ConnectedChannels;

  constructor(options: KvpOptions = {}, config?: KvpConfig) {
    const { timers } = this;
    const memory = new GuestMemory(new ArrayBuffer(2 * RING_PAGES * PAGE_SIZE));
    this.host = new KeyValueExchange(config);
    const right = this.host.component.open(undefined, {
      memory,
      timers,
      faults: FaultPlan.none(timers),
      gpadl: () => undefined,
      schedule: () => undefined,
      offerSubChannels: () => undefined,
      rescind: () => undefined,
      violation: (rule, detail) => void this.violations.push(`${rule}: ${detail}`),
    });
    let pair: ConnectedChannels | undefined;
    const channel = new IcChannel(
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
    );
    this.#pair = pair!;
    this.guest = new KvpService(channel, timers, options);
    channel.serve(this.guest);
    right.opened(this.#pair.right);
    this.run();
  }

  run(): void {
    this.#pair.run();
  }

  attachDaemon(): void {
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
    attachDaemon(this.guest.device, new KvpDaemon({ dialect, pools, facts, network }));
    this.run();
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
  expect(await world.enumerate(0)).toMatchObject({ code: "ERR_GUEST_NOT_READY" });
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
