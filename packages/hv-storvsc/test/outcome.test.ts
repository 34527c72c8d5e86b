import { describe, expect, test } from "vitest";
import { Outcome, outcomeOf } from "../src/index.js";
import { autosenseValid, transferredBytes } from "../src/outcome.js";
import { ScsiStatus } from "../src/protocol/index.js";

const names = new Map<number, string>(
  Object.entries(Outcome).map(([name, value]) => [value, name]),
);

/** Codes with SCSI status good, as numbers of the specification; what is not here is `error`. */
const adapter = new Map<number, string>([
  [0x00, "violation"],
  [0x01, "ok"],
  [0x02, "retry"],
  [0x03, "violation"],
  [0x05, "busy"],
  [0x07, "noPath"],
  [0x08, "noPath"],
  [0x09, "busy"],
  [0x0b, "busy"],
  [0x0e, "retry"],
  [0x12, "overrun"],
  [0x16, "retry"],
  [0x20, "notThere"],
  [0x21, "noPath"],
  [0x23, "busy"],
  [0x25, "busy"],
]);

/** The same, said again from the other end: which of the two bytes decides. */
function expected(code: number, flags: number, scsiStatus: number): string {
  if (code === 0x20) return "notThere";
  if (code === 0x00 || code === 0x03) return "violation";
  if (scsiStatus === 0x08 || scsiStatus === 0x28) return "busy";
  if (scsiStatus === 0x18) return "conflict";
  if (scsiStatus === 0x40) return "retry";
  if (scsiStatus === 0x02) {
    if ((flags & 0x80) !== 0) return "checkCondition";
    return code === 0x01 || code === 0x12 ? "error" : (adapter.get(code) ?? "error");
  }
  return adapter.get(code) ?? "error";
}

describe("all 64 codes, with all flags, and the SCSI statuses that occur", () => {
  for (const scsiStatus of [0x00, 0x02, 0x08, 0x18, 0x28, 0x40])
    test(`SCSI status ${scsiStatus.toString(16)}`, () => {
      for (let code = 0; code < 64; code++)
        for (const flags of [0x00, 0x40, 0x80, 0xc0])
          expect(
            names.get(outcomeOf(code | flags, scsiStatus)),
            `srb ${(code | flags).toString(16)}`,
          ).toBe(expected(code, flags, scsiStatus));
    });

  test("statuses that say good in other words", () => {
    for (const scsiStatus of [0x04, 0x10, 0x14])
      expect(outcomeOf(0x01, scsiStatus)).toBe(Outcome.ok);
    expect(outcomeOf(0x01, 0x22)).toBe(Outcome.error);
    expect(outcomeOf(0x05, 0xff)).toBe(Outcome.busy);
  });

  test("what FreeBSD takes for retryable is not failed, and the other way round only on purpose", () => {
    // sys/dev/hyperv/storvsc, SCSI status good: the codes of CAM_BUSY and CAM_DEV_NOT_THERE.
    const busy = [0x05, 0x06, 0x07, 0x08, 0x21, 0x09, 0x0b, 0x23, 0x25];
    const different = new Set(
      busy.filter((code) => {
        const outcome = outcomeOf(code, ScsiStatus.good);
        return outcome !== Outcome.busy && outcome !== Outcome.noPath;
      }),
    );
    expect([...different]).toEqual([0x06]);
    expect(outcomeOf(0x20, ScsiStatus.good)).toBe(Outcome.notThere);
  });
});

describe("sense data", () => {
  test("counts only when both bytes say so", () => {
    expect(autosenseValid(0x84, 0x02)).toBe(true);
    expect(autosenseValid(0xc4, 0x02)).toBe(true);
    expect(autosenseValid(0x44, 0x02)).toBe(false);
    expect(autosenseValid(0x84, 0x00)).toBe(false);
    expect(autosenseValid(0x81, 0x08)).toBe(false);
  });
});

describe("transferred bytes", () => {
  test.each([
    ["success", 0x01, 4096, 4096],
    ["success with flags", 0xc1, 4096, 4096],
    ["a short success", 0x01, 512, 512],
    ["more than there was room for", 0x01, 0xffff_ffff, 4096],
    ["overrun", 0x12, 100, 100],
    ["an error that left the requested length", 0x04, 4096, 0],
    ["an error with sense", 0x84, 4096, 0],
    ["an aborted request", 0x02, 4096, 0],
  ])("%s", (_, srbStatus, returned, moved) => {
    expect(transferredBytes(srbStatus, returned, 4096)).toBe(moved);
  });
});
