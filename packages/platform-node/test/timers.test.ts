import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Timer } from "@hyperv-is/vmbus-core";
import { NodeTimers } from "@hyperv-is/platform-node";

class HandClock {
  ms = 0;
  now(): number {
    return this.ms;
  }
}

describe("timers", () => {
  test("run in the order of their deadlines, cancelled ones never, moved ones once (against a sorted list)", () => {
    const action = fc.oneof(
      { weight: 5, arbitrary: fc.record({ after: fc.nat(20) }) },
      { weight: 2, arbitrary: fc.record({ cancel: fc.nat(40) }) },
      { weight: 3, arbitrary: fc.record({ again: fc.nat(40), delayMs: fc.nat(20) }) },
      { weight: 2, arbitrary: fc.record({ advance: fc.nat(12) }) },
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
        const clock = new HandClock();
        const timers = new NodeTimers(clock);
        const ran: number[] = [];
        const expected: number[] = [];
        let model: { id: number; deadline: number; order: number }[] = [];
        const made: Timer[] = [];
        let order = 0;
        for (const step of actions) {
          if ("after" in step) {
            const id = made.length;
            made.push(timers.after(step.after, () => ran.push(id)));
            model.push({ id, deadline: clock.ms + step.after, order: order++ });
          } else if ("cancel" in step) {
            made[step.cancel]?.cancel();
            model = model.filter(({ id }) => id !== step.cancel);
          } else if ("again" in step) {
            const id = step.again;
            if (made[id] === undefined) continue;
            made[id].again(step.delayMs);
            model = model.filter((timer) => timer.id !== id);
            model.push({ id, deadline: clock.ms + step.delayMs, order: order++ });
          } else {
            clock.ms += step.advance;
            const due = model.filter(({ deadline }) => deadline <= clock.ms);
            due.sort((a, b) => a.deadline - b.deadline || a.order - b.order);
            expected.push(...due.map(({ id }) => id));
            model = model.filter((timer) => !due.includes(timer));
            expect(timers.runDue()).toBe(due.length > 0);
          }
          expect(ran).toEqual(expected);
          expect(timers.nextDeadline).toBe(
            Math.min(Infinity, ...model.map(({ deadline }) => deadline)),
          );
        }
      }),
      { numRuns: 500 },
    );
  });

  test("what a call-back adds waits for the next time, so that a chain of them cannot hold the thread", () => {
    const timers = new NodeTimers(new HandClock());
    let ran = 0;
    const again = (): void => {
      ran++;
      timers.after(0, again);
    };
    timers.after(0, again);
    expect(timers.runDue()).toBe(true);
    expect(timers.runDue()).toBe(true);
    expect(ran).toBe(2);
  });

  test("a call-back may set its own timer again", () => {
    const clock = new HandClock();
    const timers = new NodeTimers(clock);
    const ran: number[] = [];
    const timer = timers.after(3, () => {
      ran.push(clock.ms);
      if (ran.length < 3) timer.again(2);
    });
    for (; clock.ms < 20; clock.ms++) timers.runDue();
    expect(ran).toEqual([3, 5, 7]);
  });

  test("a call-back may cancel another that is due", () => {
    const timers = new NodeTimers(new HandClock());
    const ran: string[] = [];
    const rest = [1, 2, 3].map((delay) => timers.after(delay, () => ran.push(`at ${delay}`)));
    timers.after(0, () => rest[1]!.cancel());
    timers.runDue(10);
    expect(ran).toEqual(["at 1", "at 3"]);
  });

  test("one that throws is gone, the others stay", () => {
    const timers = new NodeTimers(new HandClock());
    let ran = 0;
    timers.after(0, () => {
      throw new Error("from a call-back");
    });
    timers.after(0, () => ran++);
    expect(() => timers.runDue()).toThrow("from a call-back");
    expect(timers.runDue()).toBe(true);
    expect(ran).toBe(1);
  });

  test("the pump hears of a timer only if that is the first to be due", () => {
    let sooner = 0;
    const timers = new NodeTimers(new HandClock(), () => sooner++);
    timers.after(5, () => undefined);
    timers.after(9, () => undefined);
    expect(sooner).toBe(1);
    timers.after(4, () => undefined);
    expect(sooner).toBe(2);
  });

  test("a delay is a number of milliseconds", () => {
    const timers = new NodeTimers(new HandClock());
    expect(() => timers.after(-1, () => undefined)).toThrow(RangeError);
    expect(() => timers.after(NaN, () => undefined)).toThrow(RangeError);
    const timer = timers.after(1, () => undefined);
    expect(() => timer.again(-1)).toThrow(RangeError);
    expect(timers.nextDeadline).toBe(1);
  });
});
