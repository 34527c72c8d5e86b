import { expect, test } from "vitest";
import { Violations } from "../src/index.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

test("the first violations are kept whole, all are counted", () => {
  const timers = new VirtualTimers();
  const violations = new Violations(timers, 2);
  violations.record("ring-packet-type", "type 3", 14);
  timers.advance(5);
  violations.record("message-type", "type 0", undefined, 3);
  violations.record("ring-packet-type", "type 4", 15);
  expect(violations.list).toEqual([
    { rule: "ring-packet-type", detail: "type 3", relid: 14, atMs: 0 },
    { rule: "message-type", detail: "type 0", atMs: 5 },
  ]);
  expect(violations.total).toBe(5);
  expect(violations.counts()).toEqual({ "ring-packet-type": 2, "message-type": 3 });
  violations.clear();
  expect([violations.list, violations.total, violations.counts()]).toEqual([[], 0, {}]);
});
