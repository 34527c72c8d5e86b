import { expect, test } from "vitest";
import {
  localQueue,
  PageAllocator,
  GuestMemory,
  type ChannelHandler,
  type ControlContext,
  type DriverModule,
  type ShutdownAction,
  type VmbusDevice,
} from "@hyperv-is/vmbus-core";
import { DeviceClass, PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import {
  VirtualTimers,
  connectedChannels,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import type {
  HeartbeatService,
  IcChannel,
  IcComponent,
  TimeSyncService,
} from "@hyperv-is/hv-utils";
import * as drivers from "@hyperv-is/hv-utils/module";
import {
  frameworkVersions,
  heartbeatVersions,
  NT_TO_UNIX_100NS,
  shutdownVersions,
  timeSyncVersions,
} from "@hyperv-is/hv-utils/protocol";
import {
  FaultPlan,
  IntegrationServices,
  carryOutRequest,
  type Component,
  type IntegrationConfig,
  type IntegrationRequest,
} from "@hyperv-is/hyperv-host";

const RING_PAGES = 4;
const { classId } = DeviceClass.heartbeat;
const DEVICE = { classId, instanceId: classId };
const START_MS = Date.UTC(2026, 0, 1);

/** Our guest's components and our host's, each pair on a channel of its own, in virtual time. */
class World {
  readonly timers = new VirtualTimers();
  readonly violations: string[] = [];
  readonly log: string[] = [];
  readonly actions: ShutdownAction[] = [];
  readonly host: IntegrationServices;
  /** The guest's wall clock is off by so much. */
  guestOffsetNs = 0n;
  readonly tunables: Record<string, number> = {};
  readonly #pairs: ConnectedChannels[] = [];

  constructor(config?: IntegrationConfig) {
    const realTime = (): bigint =>
      (BigInt(START_MS) + BigInt(this.timers.now())) * 10_000n + NT_TO_UNIX_100NS;
    this.host = new IntegrationServices({ timers: this.timers, realTime }, config);
  }

  get guestMs(): number {
    return START_MS + this.timers.now() + Number(this.guestOffsetNs / 1_000_000n);
  }

  async attach<Attached>(
    driver: DriverModule<IcChannel, Attached>,
    component: Component,
  ): Promise<Attached> {
    let half: IcChannel | undefined;
    let pair: ConnectedChannels | undefined;
    const memory = new GuestMemory(new ArrayBuffer(2 * RING_PAGES * PAGE_SIZE));
    const context: ControlContext<IcChannel> = {
      device: {
        rescinded: new Promise(() => undefined),
        prepareChannel: () => Promise.resolve({}),
        openChannel: () => Promise.resolve(),
        closeChannel: () => Promise.resolve(),
      } as unknown as VmbusDevice,
      timers: this.timers,
      cpus: [0],
      tunable: (name) => this.tunables[name],
      log: (line) => void this.log.push(line),
      startQueue: (cpu, description, told) => {
        half = driver.queue(
          {
            memory,
            allocator: new PageAllocator(memory, 0, PAGE_SIZE),
            timers: this.timers,
            bindChannel: (_, left) => (pair = this.#connect(component, memory, left)).left,
            unbindChannel: (_, reason) => {
              pair?.left.close(reason);
              pair?.right.close(reason);
            },
          },
          description,
          told,
        );
        return Promise.resolve(localQueue(cpu, half));
      },
      system: {
        realTime: {
          nowNs: () => BigInt(this.guestMs) * 1_000_000n,
          set: (timeNs) => {
            this.guestOffsetNs = timeNs - BigInt(START_MS + this.timers.now()) * 1_000_000n;
          },
        },
        referenceTime: () => BigInt(this.timers.now()) * 10_000n,
        health: () => "healthy",
        shutdown: (action) => void this.actions.push(action),
      },
    };
    const attached = await driver.control(context);
    this.run();
    return attached;
  }

  /** Lets time pass in steps of 100 ms. */
  pass(elapsedMs: number): void {
    for (let passed = 0; passed < elapsedMs; passed += 100) {
      this.timers.advance(100);
      this.run();
    }
  }

  run(): void {
    for (const pair of this.#pairs) pair.run();
  }

  /** What became of a request to the guest. */
  request(request: IntegrationRequest): string {
    let outcome = "pending";
    carryOutRequest(this.host, request, (error) => (outcome = error?.code ?? "done"));
    this.run();
    return outcome;
  }

  #connect(component: Component, memory: GuestMemory, left: ChannelHandler): ConnectedChannels {
    const handler = component.open(DEVICE, {
      memory,
      timers: this.timers,
      faults: FaultPlan.none(this.timers),
      gpadl: () => undefined,
      schedule: () => undefined,
      offerSubChannels: () => undefined,
      rescind: () => undefined,
      violation: (rule, detail) => void this.violations.push(`${rule}: ${detail}`),
    });
    const pair = connectedChannels({ memory, left, right: handler, ringPages: RING_PAGES });
    this.#pairs.push(pair);
    handler.opened(pair.right);
    return pair;
  }
}

const everyPair = (messages: readonly number[]): (readonly [number, number])[] =>
  frameworkVersions.flatMap((framework) =>
    messages.map((message) => [framework, message] as const),
  );
const alone = (
  framework: number,
  message: number,
): { frameworks: number[]; messages: number[] } => ({
  frameworks: [framework],
  messages: [message],
});
const ended = (world: World): void => expect(world.violations).toEqual([]);

test.each(everyPair(heartbeatVersions))(
  "heartbeat, framework %i, messages %i",
  async (...versions) => {
    const world = new World({ heartbeat: alone(...versions) });
    const { heartbeat } = world.host;
    expect(heartbeat.stats.status).toBe("NoContact");
    const attached: IcComponent<HeartbeatService> = await world.attach(
      drivers.heartbeat,
      heartbeat.component,
    );
    world.pass(20_000);
    expect(attached.versions).toEqual({ framework: versions[0], message: versions[1] });
    expect(heartbeat.stats).toMatchObject({
      status: "OkApplicationsHealthy",
      sent: 11,
      answered: 11,
      lost: 0,
    });
    // A guest that hangs, and comes back.
    attached.channel.hold();
    world.pass(10_000);
    expect(heartbeat.stats).toMatchObject({ status: "LostCommunication", sent: 12 });
    expect(heartbeat.stats.missed).toBeGreaterThan(2);
    attached.channel.listen();
    world.pass(100);
    expect(heartbeat.stats).toMatchObject({
      status: "OkApplicationsHealthy",
      answered: 12,
      missed: 0,
    });
    await attached.detach();
    expect(heartbeat.stats).toMatchObject({ status: "NoContact", state: "closed" });
    ended(world);
  },
);

test.each(everyPair(shutdownVersions.slice(1)))(
  "shutdown, framework %i, messages %i",
  async (...versions) => {
    const world = new World({ shutdown: alone(...versions) });
    const request = { kind: "shutdown", action: "restart", force: true, message: "now" } as const;
    expect(world.request(request)).toBe("ERR_GUEST_NOT_READY");
    const attached = await world.attach(drivers.shutdown, world.host.shutdown.component);
    expect(attached.versions?.message).toBe(versions[1]);
    expect(world.request(request)).toBe("done");
    expect(world.actions).toEqual(["restart"]);
    expect(world.log).toEqual(["restart requested, reason 0x80000000: now"]);
    expect(world.host.shutdown.stats).toMatchObject({ asked: 2, accepted: 1 });
    ended(world);
  },
);

test.each(everyPair(timeSyncVersions))("time, framework %i, messages %i", async (...versions) => {
  const world = new World({ timeSync: alone(...versions) });
  const { timeSync } = world.host;
  world.guestOffsetNs = 3_600_000_000_000n;
  const attached: IcComponent<TimeSyncService> = await world.attach(
    drivers.timeSync,
    timeSync.component,
  );
  expect([world.guestOffsetNs, timeSync.stats.syncs]).toEqual([0n, 1]);
  // Within the threshold it is left alone, beyond it a sample sets it.
  world.guestOffsetNs = 50_000_000n;
  world.pass(5000);
  expect([world.guestOffsetNs, timeSync.stats.samples]).toEqual([50_000_000n, 1]);
  world.guestOffsetNs = -150_000_000n;
  world.pass(5000);
  expect([world.guestOffsetNs, timeSync.stats.samples]).toEqual([0n, 2]);
  // A host whose clock jumps says so, and is followed only when the guest is to.
  world.tunables["hw.hvtimesync.sample_thresh"] = -1;
  expect(world.request({ kind: "time", offsetMs: -600_000, sync: false })).toBe("done");
  world.pass(5000);
  expect(world.guestOffsetNs).toBe(0n);
  expect(world.request({ kind: "time", sync: true })).toBe("done");
  expect(world.guestOffsetNs).toBe(-600_000_000_000n);
  expect(attached.service.state).toMatchObject({ syncs: 2, samples: 3, steps: 3 });
  ended(world);
});

test("a host that begins anew finds its guest again, whatever was outstanding", async () => {
  const world = new World();
  const { heartbeat } = world.host;
  const attached = await world.attach(drivers.heartbeat, heartbeat.component);
  attached.channel.hold();
  world.pass(2000);
  heartbeat.component.renegotiate();
  world.run();
  expect(heartbeat.stats.state).toBe("negotiating");
  attached.channel.listen();
  world.pass(2000);
  expect(heartbeat.stats).toMatchObject({ status: "OkApplicationsHealthy", state: "ready" });
  ended(world);
});

test("a guest without a version in common is left alone, and breaks no rule", async () => {
  const world = new World({ timeSync: alone(frameworkVersions[0]!, 0x0009_0000) });
  const attached = await world.attach(drivers.timeSync, world.host.timeSync.component);
  world.pass(10_000);
  expect(world.host.timeSync.stats).toMatchObject({ state: "refused", messageVersion: null });
  expect(attached.counters).toMatchObject({ refused: 1, requests: 0 });
  ended(world);
});

test("hibernation, which the driver does not do, is not agreed on", async () => {
  const world = new World();
  const attached = await world.attach(drivers.shutdown, world.host.shutdown.component);
  expect(attached.versions?.message).toBe(0x0003_0001);
});
