import { expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

test("call-backs come in the order of their time, each at its own, and those of one time as they were made", () => {
  const timers = new VirtualTimers();
  const rang: [string, number][] = [];
  const set = (name: string, delayMs: number) =>
    timers.after(delayMs, () => void rang.push([name, timers.now()]));
  set("late", 7);
  set("first of two", 5);
  set("second of two", 5);
  set("never", 3).cancel();
  timers.after(2, () => set("from a call-back", 1));
  expect([timers.pending, timers.nextMs]).toEqual([4, 2]);
  timers.advance(6);
  expect(rang).toEqual([
    ["from a call-back", 3],
    ["first of two", 5],
    ["second of two", 5],
  ]);
  expect([timers.now(), timers.pending, timers.nextMs]).toEqual([6, 1, 7]);
  timers.advance(1);
  expect(rang.at(-1)).toEqual(["late", 7]);
  expect([timers.pending, timers.nextMs]).toEqual([0, Infinity]);
});

test("a timer is moved while it is to come, and set once more when it was", () => {
  const timers = new VirtualTimers();
  const rang: [string, number][] = [];
  const moved = timers.after(5, () => void rang.push(["moved", timers.now()]));
  timers.after(9, () => void rang.push(["other", timers.now()]));
  moved.again(9);
  timers.advance(9);
  expect(rang).toEqual([
    ["other", 9],
    ["moved", 9],
  ]);
  moved.again(1);
  expect([timers.pending, timers.nextMs]).toEqual([1, 10]);
  timers.advance(1);
  expect(rang.at(-1)).toEqual(["moved", 10]);
  moved.cancel();
  expect(timers.pending).toBe(0);
});
