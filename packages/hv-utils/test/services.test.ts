import { describe, expect, test } from "vitest";
import type { ControlContext, ShutdownAction, VmbusDevice } from "@hyperv-is/vmbus-core";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import {
  heartbeatStart,
  stepHeartbeat,
  stepShutdown,
  stepTimeSync,
  timeSyncStart,
  type IcChannel,
  type ShutdownEffect,
  type ShutdownState,
  type TimeSyncEffect,
  type TimeSyncSettings,
} from "../src/index.js";
import * as module from "../src/module.js";
import * as ic from "../src/protocol/index.js";
import { Rig } from "./rig.js";
import { vector } from "./vectors.js";

const v = ic.icVersion;

describe("heartbeat", () => {
  const body = vector("V7").subarray(28);

  test("the answer to V7 is V8, in a guest that does not say how it is", () => {
    const { state, effects } = stepHeartbeat(heartbeatStart, body, undefined, 123);
    expect(state).toEqual({ beats: 1, lastMs: 123 });
    expect(effects).toEqual([{ status: 0, body: vector("V8").subarray(28) }]);
  });

  test("a guest that says how it is puts it behind the number", () => {
    const { effects } = stepHeartbeat(heartbeatStart, body, ic.ApplicationState.critical, 0);
    expect(ic.parseHeartbeat(effects[0]!.body)).toEqual({ sequence: 43n, applicationState: 2 });
  });

  test("a state that the host has sent comes back from a guest that does not say how it is", () => {
    const told = ic.Heartbeat.emit({ sequence: 1n, applicationState: 3 });
    const { effects } = stepHeartbeat(heartbeatStart, told, undefined, 0);
    expect(ic.parseHeartbeat(effects[0]!.body)).toEqual({ sequence: 2n, applicationState: 3 });
  });

  test("it is known when the last one came", () => {
    const { state } = stepHeartbeat(heartbeatStart, body, undefined, 123);
    expect(stepHeartbeat(state, body, undefined, 456).state).toEqual({ beats: 2, lastMs: 456 });
  });

  test.each([8, 10, 16, 40])("a body of %i bytes is answered in that length", (length) => {
    const long = new Uint8Array(length).fill(0xff);
    const { effects } = stepHeartbeat(heartbeatStart, long, ic.ApplicationState.healthy, 0);
    const expected = new Uint8Array(length).fill(0xff);
    expected.fill(0, 0, 8);
    if (length > 8) expected.set([1, 0, 0, 0].slice(0, length - 8), 8);
    expect(effects).toEqual([{ status: 0, body: expected }]);
  });

  test("a body without a number is refused, and counts for nothing", () => {
    const { state, effects } = stepHeartbeat(heartbeatStart, body.subarray(0, 7), 1, 0);
    expect(state).toEqual(heartbeatStart);
    expect(effects).toMatchObject([{ status: 0x8007_0057 }]);
  });
});

describe("shutdown", () => {
  const request = (flags: number, text = "", reason = 0x8000_0000): Uint8Array =>
    ic.Shutdown.emit({ reason, timeoutSeconds: 0, flags, message: ic.emitShutdownText(text) });
  const brief = (effect: ShutdownEffect): string =>
    effect.kind === "log"
      ? effect.line
      : effect.kind === "act"
        ? effect.action
        : effect.status.toString(16);
  const refused = (flags: string): [string[], ShutdownState["name"]] => [
    [`unknown shutdown flags ${flags}`, "80004005"],
    "running",
  ];

  test.each([
    ["power off", vector("V9").subarray(28), ["shutdown requested", "0", "power-off"], "power-off"],
    ["power off gently", request(0), ["shutdown requested", "0", "power-off"], "power-off"],
    ["restart", vector("V11").subarray(28), ["restart requested", "0", "restart"], "restart"],
    ["restart by force", request(3), ["restart requested", "0", "restart"], "restart"],
    ["hibernate", request(4), ...refused("0x00000004")],
    ["hibernate by force", request(5), ...refused("0x00000005")],
    ["restart and hibernate", request(6), ...refused("0x00000006")],
    ["a flag that nobody knows", request(0x8000_0001), ...refused("0x80000001")],
    [
      "12 bytes are enough",
      request(1).subarray(0, 12),
      ["shutdown requested", "0", "power-off"],
      "power-off",
    ],
    ["11 bytes are not", request(1).subarray(0, 11), ["80070057"], "running"],
    [
      "with a message for the users",
      request(0, "Patch day\n\u001b[0m", 7),
      ["shutdown requested, reason 0x7: Patch day\ufffd\ufffd[0m", "0", "power-off"],
      "power-off",
    ],
  ] as const)("%s", (_, body, effects, end) => {
    const step = stepShutdown({ name: "running" }, body);
    expect(step.effects.map(brief)).toEqual(effects);
    expect(step.state.name).toBe(end);
  });

  test.each(["power-off", "restart"] as const)(
    "%s is under way: the rest changes nothing",
    (name) => {
      for (const [flags, status] of [
        [0, "0"],
        [2, "0"],
        [4, "unknown shutdown flags 0x00000004,80004005"],
      ] as const) {
        const { state, effects } = stepShutdown({ name }, request(flags));
        expect(effects.map(brief).join()).toBe(status);
        expect(state.name).toBe(name);
      }
    },
  );
});

describe("time synchronisation", () => {
  const HOST_MS = Date.UTC(2024, 0, 1);
  const hostNs = BigInt(HOST_MS) * 1_000_000n;
  const defaults: TimeSyncSettings = {
    ignoreSync: false,
    sampleThresholdMs: 100,
    sampleVerbose: false,
  };
  const { sync, sample } = ic.TimeSyncFlag;
  const message4 = (flags: number, referenceTime = 0n): Uint8Array =>
    ic.TimeSync4.emit({
      parentTime: 133_485_408_000_000_000n,
      referenceTime,
      flags,
      leapIndicator: 0,
      stratum: 0,
    });
  const run = (
    flags: number,
    aheadMs: number,
    settings: Partial<TimeSyncSettings> = {},
  ): TimeSyncEffect[] => {
    const { effects } = stepTimeSync(
      timeSyncStart,
      {
        body: message4(flags),
        version: v(4),
        realTimeNs: hostNs + BigInt(aheadMs) * 1_000_000n,
        referenceTime: 0n,
      },
      { ...defaults, ...settings },
    );
    return [...effects];
  };
  const sets = (...args: Parameters<typeof run>): boolean =>
    run(...args).some((effect) => effect.kind === "set");

  test.each([
    ["a sync sets the clock", sync, 5000, {}, true],
    ["even by nothing", sync, 0, {}, true],
    ["a sync that is to be ignored does not", sync, 5000, { ignoreSync: true }, false],
    ["a sample within the threshold does not", sample, 100, {}, false],
    ["nor one by less than a millisecond more", sample, -100, {}, false],
    ["a sample beyond the threshold does", sample, 101, {}, true],
    ["in either direction", sample, -101, {}, true],
    [
      "a threshold of 0: any difference of a millisecond",
      sample,
      1,
      { sampleThresholdMs: 0 },
      true,
    ],
    ["but not less", sample, 0, { sampleThresholdMs: 0 }, false],
    ["a negative threshold: samples never do", sample, 600_000, { sampleThresholdMs: -1 }, false],
    [
      "a sync that is ignored may be a sample as well",
      sync | sample,
      200,
      { ignoreSync: true },
      true,
    ],
    ["a probe changes nothing", 0, 5000, {}, false],
  ] as const)("%s", (_, flags, aheadMs, settings, expected) => {
    expect(sets(flags, aheadMs, settings)).toBe(expected);
    expect(run(flags, aheadMs, settings).at(-1)).toEqual({
      kind: "answer",
      status: 0,
      body: message4(flags),
    });
  });

  test("verbose samples are told of in FreeBSD's words", () => {
    expect(run(sample, 1, { sampleVerbose: true })[0]).toEqual({
      kind: "log",
      line: `sample request, hv: ${hostNs}, vm: ${hostNs + 1_000_000n}`,
    });
    expect(run(sync, 1, { sampleVerbose: true })[0]!.kind).toBe("set");
  });

  test.each([
    ["4.0: the way that V12 took is added", "V12", v(4), 600_000_250n, 25_000n],
    ["a counter that went backwards adds nothing", "V12", v(4), 1n, 0n],
    ["no counter, nothing to add", "V12", v(4), undefined, 0n],
    ["3.0: nothing is added", "V13", v(3), 600_000_250n, 0n],
    ["1.0 has the body of 3.0", "V13", v(1), 600_000_250n, 0n],
  ] as const)("%s", (_, id, version, referenceTime, delayNs) => {
    const input = { body: vector(id).subarray(28), version, realTimeNs: 0n, referenceTime };
    const { state, effects } = stepTimeSync(timeSyncStart, input, defaults);
    expect(effects[0]).toEqual({ kind: "set", timeNs: hostNs + delayNs });
    expect(state).toMatchObject({ steps: 1, delayNs, offsetNs: -(hostNs + delayNs) });
  });

  test.each([
    ["a body that is too short", vector("V12").subarray(28, 44), v(4)],
    ["a body of 4.0 below it", vector("V12").subarray(28, 52), v(3)],
    [
      "a time before 1970",
      ic.TimeSync4.emit({ ...ic.parseTimeSync4(message4(sync))!, parentTime: 1n }),
      v(4),
    ],
  ])("%s is refused, and the clock left alone", (_, body, version) => {
    const input = { body, version, realTimeNs: hostNs, referenceTime: 0n };
    const { state, effects } = stepTimeSync(timeSyncStart, input, defaults);
    expect(effects).toEqual([{ kind: "answer", status: 0x8007_0057, body: new Uint8Array() }]);
    expect(state).toBe(timeSyncStart);
  });

  test("all is counted", () => {
    let state = timeSyncStart;
    for (const flags of [sync, sample, sample, 0, sync | sample])
      state = stepTimeSync(
        state,
        { body: message4(flags), version: v(4), realTimeNs: hostNs, referenceTime: 0n },
        defaults,
      ).state;
    expect(state).toMatchObject({ syncs: 2, samples: 3, probes: 1, steps: 2, offsetNs: 0n });
  });
});

describe("drivers", () => {
  test("are FreeBSD's", () => {
    const { heartbeat, shutdown, timeSync, kvp } = DeviceClass;
    expect(
      module.drivers.map((driver) => [
        driver.name,
        driver.deviceName,
        [heartbeat, shutdown, timeSync, kvp]
          .map(({ classId }) => driver.probe(classId) ?? "-")
          .join(),
      ]),
    ).toEqual([
      ["hv_heartbeat", "hvheartbeat", "Hyper-V Heartbeat,-,-,-"],
      ["hv_shutdown", "hvshutdown", "-,Hyper-V Shutdown,-,-"],
      ["hv_timesync", "hvtimesync", "-,-,Hyper-V Timesync,-"],
    ]);
  });

  /** A rig with a kernel around it. */
  class KernelRig extends Rig {
    timeNs = 0n;
    health: "healthy" | "critical" | "stopped" = "healthy";
    readonly actions: (readonly [action: ShutdownAction, answers: number])[] = [];
    /** Of the device, the drivers use no more than the rig has. */
    readonly kernel = (): ControlContext<IcChannel> => ({
      ...this.context,
      device: this.context.device as VmbusDevice,
      timers: this.timers,
      cpus: [0],
      tunable: () => undefined,
      log: (line: string) => void this.log.push(line),
      system: {
        realTime: {
          nowNs: () => this.timeNs,
          set: (timeNs: bigint) => void (this.timeNs = timeNs),
        },
        referenceTime: () => 0n,
        health: () => this.health,
        shutdown: (action: ShutdownAction) => {
          this.connected!.right.poll(100);
          this.actions.push([action, this.received.length]);
        },
      },
    });
  }

  test("the heartbeat says how the guest is", async () => {
    const rig = new KernelRig();
    const { service } = await module.heartbeat.control(rig.kernel());
    rig.negotiate([v(1), v(3)]);
    const [answer] = rig.ask(vector("V7"));
    expect(ic.parseHeartbeat(answer!.body)).toEqual({ sequence: 43n, applicationState: 1 });
    expect(service.state.beats).toBe(1);
    for (const [health, applicationState] of [
      ["critical", 2],
      ["stopped", 3],
    ] as const) {
      rig.health = health;
      const [later] = rig.ask(vector("V7"));
      expect(ic.parseHeartbeat(later!.body)).toMatchObject({ applicationState });
    }
  });

  test("the host has the answer before the system begins to shut down", async () => {
    const rig = new KernelRig();
    await module.shutdown.control(rig.kernel());
    expect(rig.negotiate([v(1), v(3), v(3, 1), v(3, 2)]).message).toBe(v(3, 1));
    rig.ask(vector("V9"));
    expect(rig.received[1]).toMatchObject({ type: 3, status: 0, body: new Uint8Array() });
    expect(rig.actions).toEqual([["power-off", 2]]);
    expect(rig.log).toEqual(["shutdown requested"]);
  });

  test.each([
    [v(4), "V12", ["RTT"]],
    [v(3), "V13", []],
  ])("the clock follows the host's, version %i", async (version, id, log) => {
    const rig = new KernelRig();
    const { service } = await module.timeSync.control(rig.kernel());
    expect(rig.negotiate([version]).message).toBe(version);
    const [answer] = rig.ask(vector(id));
    expect(answer!.body).toEqual(vector(id).subarray(28));
    expect(rig.timeNs).toBe(BigInt(Date.UTC(2024, 0, 1)) * 1_000_000n);
    expect(rig.log).toEqual(log);
    expect(service.state.steps).toBe(1);
  });
});
