import { describe, expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { Machine, step, type Step, type Tick } from "../src/bus/machine.js";

interface Counter {
  readonly name: string;
  readonly count: number;
  readonly deadline?: number;
}
type Input = { readonly kind: "add" } | { readonly kind: "wait"; readonly ms: number };

/** Counts; an effect per input; waits when told, and says so when the wait is over. */
function count(state: Counter, input: Input | Tick, now: number): Step<Counter, string> {
  const next = { name: "counting", count: state.count + 1 };
  switch (input.kind) {
    case "add":
      return step({ ...state, ...next }, `added ${next.count}`, "more");
    case "wait":
      return step({ ...next, deadline: now + input.ms }, "waiting");
    case "tick":
      return now < (state.deadline ?? 0) ? step(state, "early") : step(next, `tick at ${now}`);
  }
}

function machine(): {
  timers: VirtualTimers;
  log: string[];
  counter: Machine<Counter, Input, string>;
} {
  const timers = new VirtualTimers();
  const log: string[] = [];
  const counter: Machine<Counter, Input, string> = new Machine<Counter, Input, string>(
    timers,
    { name: "counting", count: 0 },
    count,
    (effect) => {
      log.push(effect);
      if (effect === "added 1") counter.input({ kind: "add" });
    },
  );
  return { timers, log, counter };
}

describe("machine", () => {
  test("an input that an effect brings about waits until all effects are done", () => {
    const { log, counter } = machine();
    counter.input({ kind: "add" });
    expect(log).toEqual(["added 1", "more", "added 2", "more"]);
    expect(counter.state.count).toBe(2);
  });

  test("ticks when the deadline of its state has come, once", () => {
    const { timers, log, counter } = machine();
    counter.input({ kind: "wait", ms: 10 });
    timers.advance(9);
    expect(log).toEqual(["waiting"]);
    timers.advance(1);
    timers.advance(100);
    expect(log).toEqual(["waiting", "tick at 10"]);
    expect(timers.pending).toBe(0);
  });

  test("a later deadline replaces an earlier one, and the same one stays", () => {
    const { timers, log, counter } = machine();
    counter.input({ kind: "wait", ms: 10 });
    counter.input({ kind: "wait", ms: 20 });
    counter.input({ kind: "add" });
    expect(timers.pending).toBe(1);
    timers.advance(50);
    expect(log.filter((line) => line.startsWith("tick"))).toEqual(["tick at 20"]);
  });

  test("a timer that comes too early is armed again", () => {
    class Hasty extends VirtualTimers {
      override after(delayMs: number, run: () => void) {
        return super.after(delayMs / 2, run);
      }
    }
    const timers = new Hasty();
    const log: string[] = [];
    const counter = new Machine<Counter, Input, string>(
      timers,
      { name: "counting", count: 0 },
      count,
      (effect) => log.push(effect),
    );
    counter.input({ kind: "wait", ms: 8 });
    timers.advance(4);
    expect(log).toEqual(["waiting", "early"]);
    expect(timers.pending).toBe(1);
  });
});
