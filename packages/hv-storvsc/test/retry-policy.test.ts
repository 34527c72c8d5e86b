import { describe, expect, test } from "vitest";
import type { ScsiResult } from "../src/command-executor.js";
import { Outcome } from "../src/index.js";
import { AdditionalSense, SenseKey } from "../src/protocol/index.js";
import { RetryPolicy, type RetryDecision } from "../src/retry-policy.js";

const result = (outcome: Outcome, transferredBytes = 0): ScsiResult => ({
  outcome,
  srbStatus: 0,
  scsiStatus: 0,
  transferredBytes,
  sense: undefined,
});

const sense = (key: number, additionalSense: number, deferred = false): ScsiResult => ({
  ...result(key === SenseKey.unitAttention ? Outcome.unitAttention : Outcome.checkCondition),
  sense: { deferred, key, additionalSense },
});

const brief = (decision: RetryDecision): string => {
  if (decision.kind === "fail") return decision.code;
  return decision.kind === "again" && decision.delayMs > 0 ? "later" : decision.kind;
};

describe("the first answer", () => {
  test.each<[string, ScsiResult, string]>([
    ["success", result(Outcome.ok), "done"],
    ["an overrun of a command whose length may differ", result(Outcome.overrun), "done"],
    ["lost to a reset", result(Outcome.retry), "again"],
    ["the adapter failed", result(Outcome.error), "again"],
    ["busy", result(Outcome.busy), "later"],
    ["the path does not answer", result(Outcome.noPath), "later"],
    ["no such unit", result(Outcome.notThere), "ERR_SCSI_NOT_THERE"],
    ["reserved", result(Outcome.conflict), "ERR_SCSI_RESERVATION_CONFLICT"],
    ["a status that ends nothing", result(Outcome.violation), "ERR_SCSI_PROTOCOL"],
    [
      "check condition without sense in a known format",
      result(Outcome.checkCondition),
      "ERR_SCSI_CHECK_CONDITION",
    ],
    [
      "capacity changed",
      sense(SenseKey.unitAttention, AdditionalSense.capacityDataChanged),
      "attention",
    ],
    ["no sense", sense(SenseKey.noSense, 0), "again"],
    ["recovered error", sense(SenseKey.recoveredError, 0), "again"],
    ["becoming ready", sense(SenseKey.notReady, 0x0401), "later"],
    [
      "no medium",
      sense(SenseKey.notReady, AdditionalSense.mediumNotPresentTrayClosed),
      "ERR_SCSI_CHECK_CONDITION",
    ],
    ["unreadable", sense(SenseKey.mediumError, AdditionalSense.unrecoveredReadError), "again"],
    ["hardware error", sense(SenseKey.hardwareError, 0), "again"],
    [
      "illegal request",
      sense(SenseKey.illegalRequest, AdditionalSense.lbaOutOfRange),
      "ERR_SCSI_CHECK_CONDITION",
    ],
    [
      "write protected",
      sense(SenseKey.dataProtect, AdditionalSense.writeProtected),
      "ERR_SCSI_CHECK_CONDITION",
    ],
    ["aborted", sense(SenseKey.abortedCommand, 0), "again"],
    ["a key that nobody knows", sense(0xf, 0), "ERR_SCSI_CHECK_CONDITION"],
    [
      "an error of an earlier command",
      sense(SenseKey.abortedCommand, 0, true),
      "ERR_SCSI_CHECK_CONDITION",
    ],
  ])("%s", (_, answer, decision) => {
    expect(brief(new RetryPolicy().decide(answer))).toBe(decision);
  });

  test("a medium error ends a write", () => {
    const answer = sense(SenseKey.mediumError, AdditionalSense.writeFault);
    expect(brief(new RetryPolicy({ write: true }).decide(answer))).toBe("ERR_SCSI_CHECK_CONDITION");
  });

  test("a path that does not answer is an answer to a probe", () => {
    const decision = new RetryPolicy({ probing: true }).decide(result(Outcome.noPath));
    expect(brief(decision)).toBe("ERR_SCSI_NOT_THERE");
  });

  test.each([Outcome.ok, Outcome.overrun])("too few bytes are no success (%i)", (outcome) => {
    const policy = new RetryPolicy({ requiredBytes: 512 });
    expect(brief(policy.decide(result(outcome, 511)))).toBe("again");
    expect(brief(policy.decide(result(outcome, 512)))).toBe("done");
  });
});

describe("in the long run", () => {
  /** Decisions until the first that is final. */
  function run(
    answer: ScsiResult,
    requiredBytes = 0,
  ): { code: string; sent: number; waitedMs: number } {
    const policy = new RetryPolicy({ requiredBytes });
    let waitedMs = 0;
    for (let sent = 1; ; sent++) {
      const decision = policy.decide(answer);
      if (decision.kind === "fail") return { code: decision.code, sent, waitedMs };
      if (decision.kind === "again") waitedMs += decision.delayMs;
      if (sent > 1000) throw new Error("no end");
    }
  }

  test.each<[string, ScsiResult, string]>([
    ["resets", result(Outcome.retry), "ERR_SCSI_HOST_ADAPTER"],
    [
      "unit attentions",
      sense(SenseKey.unitAttention, AdditionalSense.busReset),
      "ERR_SCSI_CHECK_CONDITION",
    ],
    ["read errors", sense(SenseKey.mediumError, 0x1100), "ERR_SCSI_CHECK_CONDITION"],
    ["short transfers", result(Outcome.ok), "ERR_SCSI_SHORT_TRANSFER"],
  ])("%s: four retries, as FreeBSD has", (_, answer, code) => {
    expect(run(answer, 1)).toEqual({ code, sent: 5, waitedMs: 0 });
  });

  test("busy: for a minute, ever less often, and not in a loop", () => {
    const { code, sent, waitedMs } = run(result(Outcome.busy));
    expect(code).toBe("ERR_SCSI_BUSY");
    expect(waitedMs).toBeGreaterThanOrEqual(60_000);
    expect(waitedMs).toBeLessThan(62_000);
    expect(sent).toBeLessThan(75);
  });
});
