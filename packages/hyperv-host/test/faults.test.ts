import { describe, expect, test } from "vitest";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import {
  FaultPlan,
  FaultPlanError,
  faultKinds,
  faultStats,
  parseFaultPlan,
  type Fault,
  type FaultContext,
  type FaultPlanData,
} from "../src/index.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

const read: FaultContext = {
  classId: DeviceClass.scsi.classId,
  instanceId: "aaaaaaaa-0000-0000-0000-000000000001",
  lun: 0,
  operation: "read",
};

/** On which of the first occasions a fault happens. */
function occasions(fault: Fault, count: number, context = read, seed = 0): number[] {
  const plan = new FaultPlan({ seed, faults: [fault] }, new VirtualTimers());
  return Array.from({ length: count }, (_, index) => index + 1).filter(
    () => plan.at("device.complete", context) !== undefined,
  );
}

describe("fault plan", () => {
  const lost = { kind: "lost-completion" } as const;

  test.each<[string, Partial<Fault>, number[]]>([
    ["always", {}, [1, 2, 3, 4, 5, 6]],
    ["nth", { nth: 3 }, [3]],
    ["every", { every: 2 }, [2, 4, 6]],
    ["count", { count: 2 }, [1, 2]],
    ["every and count", { every: 2, count: 2 }, [2, 4]],
    ["lun that is meant", { lun: 0, nth: 1 }, [1]],
    ["lun that is not", { lun: 1 }, []],
    ["operation that is meant", { operation: "read", nth: 2 }, [2]],
    ["operation that is not", { operation: "write" }, []],
    ["instance", { device: "aaaaaaaa-0000-0000-0000-000000000001", nth: 1 }, [1]],
    ["another instance", { device: "aaaaaaaa-0000-0000-0000-000000000002" }, []],
    ["class by name", { device: "scsi", nth: 1 }, [1]],
    ["another class by name", { device: "network" }, []],
    ["class by GUID", { device: DeviceClass.scsi.classId, nth: 1 }, [1]],
    ["probability 0", { probability: 0 }, []],
    ["probability 1", { probability: 1 }, [1, 2, 3, 4, 5, 6]],
  ])("%s", (_, selector, expected) => {
    expect(occasions({ ...lost, ...selector } as Fault, 6)).toEqual(expected);
  });

  test("occasions that a selector does not match are not counted", () => {
    const plan = new FaultPlan(
      { faults: [{ ...lost, operation: "write", nth: 2 }] },
      new VirtualTimers(),
    );
    const write: FaultContext = { ...read, operation: "write" };
    const results = [read, write, read, write, write].map(
      (context) => plan.at("device.complete", context)?.kind,
    );
    expect(results).toEqual([undefined, undefined, undefined, "lost-completion", undefined]);
  });

  test("a probability is kept, follows the seed and nothing else", () => {
    const fault: Fault = { ...lost, probability: 0.25 };
    const happened = occasions(fault, 10_000, read, 7);
    expect(happened.length).toBeGreaterThan(2300);
    expect(happened.length).toBeLessThan(2700);
    expect(occasions(fault, 10_000, read, 7)).toEqual(happened);
    expect(occasions(fault, 10_000, read, 8)).not.toEqual(happened);
  });

  test("the first of several faults happens, and the others count all the same", () => {
    const plan = new FaultPlan(
      {
        faults: [
          { ...lost, nth: 2 },
          { kind: "late-completion", delayMs: 5, every: 2 },
        ],
      },
      new VirtualTimers(),
    );
    const kinds = Array.from({ length: 4 }, () => plan.at("device.complete", read)?.kind);
    expect(kinds).toEqual([undefined, "lost-completion", undefined, "late-completion"]);
  });

  test("not before its time", () => {
    const timers = new VirtualTimers();
    timers.advance(50);
    const plan = new FaultPlan({ faults: [{ ...lost, afterMs: 100 }] }, timers);
    timers.advance(99);
    expect(plan.at("device.complete", read)).toBeUndefined();
    timers.advance(1);
    expect(plan.at("device.complete", read)).toMatchObject(lost);
  });

  test("a point gets its own faults with their parameters", () => {
    const plan = new FaultPlan(
      {
        faults: [
          { kind: "short-transfer", bytes: 512 },
          { kind: "stalled-ring", durationMs: 3 },
        ],
      },
      new VirtualTimers(),
    );
    expect(plan.isArmed("device.complete")).toBe(false);
    expect(plan.at("device.complete", read)).toBeUndefined();
    expect(plan.isArmed("device.request")).toBe(true);
    const fault = plan.at("device.request", read);
    expect(fault?.kind === "short-transfer" && fault.bytes).toBe(512);
    expect(plan.at("channel.poll", read)?.durationMs).toBe(3);
  });

  test("a rescind that names a request happens there, another one by time", () => {
    const plan = new FaultPlan(
      {
        faults: [
          { kind: "rescind", operation: "read" },
          { kind: "rescind", device: "scsi", afterMs: 5 },
        ],
      },
      new VirtualTimers(),
    );
    expect(plan.at("device.request", read)).toMatchObject({ operation: "read" });
    expect(plan.timedRescinds).toMatchObject([{ device: "scsi", afterMs: 5 }]);
  });

  test("another plan in its place begins anew", () => {
    const timers = new VirtualTimers();
    const plan = new FaultPlan({ faults: [{ ...lost, nth: 2 }] }, timers);
    expect(plan.at("device.complete", read)).toBeUndefined();
    timers.advance(100);
    const late = { kind: "rescind", device: "scsi", afterMs: 5 } as const;
    plan.replace({ faults: [{ ...lost, nth: 2, afterMs: 50 }, late] });
    expect(plan.at("device.complete", read)).toBeUndefined();
    timers.advance(50);
    const told = [1, 2, 3].map(() => plan.at("device.complete", read)?.kind);
    expect(told).toEqual([undefined, "lost-completion", undefined]);
    expect([plan.counts, plan.timedRescinds]).toEqual([[1, 0], [late]]);
    plan.replace({ faults: [] });
    expect(plan.isArmed("device.complete")).toBe(false);
    expect([plan.counts, plan.timedRescinds]).toEqual([[], []]);
  });

  test("each fault is counted when it happens, and only then", () => {
    const data: FaultPlanData = {
      faults: [
        { ...lost, lun: 0, every: 2 },
        { kind: "late-completion", delayMs: 5, device: "scsi", operation: "read" },
        { kind: "rescind", device: "scsi", afterMs: 5 },
      ],
    };
    const plans = [
      new FaultPlan(data, new VirtualTimers()),
      new FaultPlan(data, new VirtualTimers()),
    ];
    for (let occasion = 0; occasion < 5; occasion++) plans[0]!.at("device.complete", read);
    plans[1]!.at("device.complete", read);
    plans[1]!.count(plans[1]!.timedRescinds[0]!);
    expect(plans.map(({ counts }) => counts)).toEqual([
      [2, 3, 0],
      [0, 1, 1],
    ]);
    expect(
      faultStats(
        data,
        plans.map(({ counts }) => counts),
      ),
    ).toEqual([
      { kind: "lost-completion", lun: 0, happened: 2 },
      { kind: "late-completion", device: "scsi", operation: "read", happened: 4 },
      { kind: "rescind", device: "scsi", happened: 1 },
    ]);
  });
});

describe("a fault plan from JSON", () => {
  test("with every kind and every selector", () => {
    const faults = [
      { kind: "late-completion", delayMs: 20, device: "scsi", lun: 1, operation: "write" },
      { kind: "lost-completion", nth: 3, every: 2, probability: 0.5, count: 4, afterMs: 10 },
      { kind: "duplicate-completion", device: "{AAAAAAAA-0000-0000-0000-000000000001}" },
      { kind: "short-transfer", bytes: 512 },
      { kind: "check-condition", senseKey: 3, additionalCode: 0x11, additionalQualifier: 0 },
      { kind: "stalled-ring", durationMs: 100 },
      { kind: "rescind", device: "scsi", reofferAfterMs: 0 },
      { kind: "refused-version", version: "5.3" },
      { kind: "late-sub-channels", delayMs: 20 },
      { kind: "fewer-sub-channels", offered: 1 },
      { kind: "repeated-sub-channels" },
      { kind: "rescind-sub-channel", every: 100, reofferAfterMs: 10 },
      { kind: "dropped-frame", operation: "transmit", probability: 0.01 },
      { kind: "duplicate-frame", operation: "receive" },
      { kind: "late-frame", delayMs: 5 },
      { kind: "corrupt-frame", offset: 34 },
      { kind: "wrong-checksum-flags" },
      { kind: "link-flap", downMs: 1000 },
      { kind: "failed-completion" },
      { kind: "stray-completion" },
      { kind: "malformed-rndis", damage: "info-size-zero" },
      { kind: "malformed-transfer", damage: "range-overflow" },
      { kind: "late-request", device: "kvp", delayMs: 100 },
      { kind: "repeated-request", device: "heartbeat" },
      { kind: "renegotiation", nth: 3 },
      { kind: "malformed-message", damage: "pipe-length" },
      { kind: "malformed-kvp", damage: "index" },
    ];
    const plan = parseFaultPlan({ seed: 4, faults });
    expect(plan.seed).toBe(4);
    expect(plan.faults.map(({ kind }) => kind)).toEqual(faults.map(({ kind }) => kind));
    expect(new Set(plan.faults.map(({ kind }) => kind))).toEqual(new Set(faultKinds));
    expect(plan.faults[2]?.device).toBe("aaaaaaaa-0000-0000-0000-000000000001");
    expect(plan.faults[7]).toEqual({ kind: "refused-version", version: 0x0005_0003 });
  });

  test.each<[string, unknown, string[]]>([
    ["no object", [], ["the document: must be an object"]],
    ["null", null, ["the document: must be an object"]],
    ["no faults", {}, ["faults: is missing"]],
    ["faults that are no list", { faults: {} }, ["faults: must be a list, not {}"]],
    [
      "an unknown field",
      { faults: [], speed: 1 },
      ["speed: is not known here; known are seed, faults"],
    ],
    [
      "a field of every object",
      { faults: [], toString: 1 },
      ["toString: is not known here; known are seed, faults"],
    ],
    [
      "a seed with a fraction",
      { seed: 1.5, faults: [] },
      ["seed: must be an integer from 0 to 4294967295, not 1.5"],
    ],
    ["no kind", { faults: [{}] }, [`faults[0].kind: must be one of ${faultKinds.join(", ")}`]],
    [
      "a fault that is a text",
      { faults: ["rescind"] },
      [`faults[0].kind: must be one of ${faultKinds.join(", ")}`],
    ],
    ["no delay", { faults: [{ kind: "late-completion" }] }, ["faults[0].delayMs: is missing"]],
    [
      "a delay that is a text",
      { faults: [{ kind: "late-completion", delayMs: "5" }] },
      ['faults[0].delayMs: must be a number of at least 0, not "5"'],
    ],
    [
      "nth 0",
      { faults: [{ kind: "lost-completion", nth: 0 }] },
      ["faults[0].nth: must be an integer of at least 1, not 0"],
    ],
    [
      "probability 2",
      { faults: [{ kind: "lost-completion", probability: 2 }] },
      ["faults[0].probability: must be a number from 0 to 1, not 2"],
    ],
    [
      "a version that is none",
      { faults: [{ kind: "refused-version", version: "5.4" }] },
      ['faults[0].version: must be a protocol version such as "5.3", not "5.4"'],
    ],
    [
      "a rescind of nothing",
      { faults: [{ kind: "rescind" }] },
      ["faults[0].device: is missing; a rescind that names no request needs it"],
    ],
    [
      "several mistakes",
      { seed: -1, faults: [{ kind: "lost-completion", lun: -1, bytes: 1 }] },
      [
        "seed: must be an integer from 0 to 4294967295, not -1",
        "faults[0].lun: must be an integer of at least 0, not -1",
        "faults[0].bytes: is not known here; known are kind, device, lun, operation, nth, every, probability, count, afterMs",
      ],
    ],
  ])("%s", (_, value, problems) => {
    let error: unknown;
    try {
      parseFaultPlan(value);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(FaultPlanError);
    expect(error).toMatchObject({ code: "ERR_FAULT_PLAN", problems });
  });

  test("an unknown device or operation is told what there is", () => {
    const parse = (fault: object): void => void parseFaultPlan({ faults: [fault] });
    expect(() => parse({ kind: "lost-completion", device: "disk" })).toThrow(
      /device: must be a GUID, or one of network, scsi, .*, not "disk"/,
    );
    expect(() => parse({ kind: "lost-completion", operation: "READ" })).toThrow(
      /operation: must be one of read, write, .*, not "READ"/,
    );
  });
});
