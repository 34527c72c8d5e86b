import { expect, test } from "vitest";
import { Simulation, type Actor } from "@hyperv-is/conformance";

/** An actor that does `turns` turns of `work`. */
function worker(name: string, turns: number, work: () => void): Actor {
  let left = turns;
  return {
    name,
    step() {
      work();
      return --left > 0;
    },
  };
}

test("time stands still in turns unless they take time, and jumps when all sleep", () => {
  const still = new Simulation(1);
  still.wake(worker("busy", 100, () => undefined));
  let rangAt = -1;
  still.after(7, () => (rangAt = still.steps));
  still.run(1000);
  expect([rangAt, still.now()]).toEqual([100, 7]);
});

test("alarms ring among the turns of those who are awake", () => {
  const simulation = new Simulation(2, { turnMs: 1 });
  simulation.wake(worker("busy", 100, () => undefined));
  const rangAt: number[] = [];
  for (const delayMs of [3, 1, 2])
    simulation.after(delayMs, () => {
      expect(simulation.now()).toBeGreaterThanOrEqual(delayMs);
      rangAt.push(simulation.steps);
    });
  simulation.run(1000);
  expect(rangAt).toHaveLength(3);
  expect(rangAt[0]).toBeGreaterThan(0);
  expect(rangAt[2]).toBeLessThan(100);
  expect(rangAt).toEqual([...rangAt].sort((left, right) => left - right));
});

test("a cancelled alarm never rings", () => {
  const simulation = new Simulation(3);
  const alarm = simulation.after(1, () => expect.unreachable());
  alarm.cancel();
  simulation.run(10);
  expect(simulation.now()).toBe(0);
});

test("what a CPU does in an alarm or a promise can be interrupted, but not by itself", async () => {
  const simulation = new Simulation(4);
  const seen = { alarm: 0, story: 0 };
  let inside: keyof typeof seen | undefined;
  const own = worker("own", 1, () => expect(inside).toBeUndefined());
  const storysToo = worker("the story's too", 1, () => expect(inside).not.toBe("story"));
  const other = worker("other", 1, () => {
    if (inside !== undefined) seen[inside]++;
  });
  const work = (where: keyof typeof seen): void => {
    for (let access = 0; access < 50; access++) {
      for (const actor of [own, storysToo, other]) simulation.wake(actor);
      inside = where;
      simulation.yieldPoint();
      inside = undefined;
    }
  };
  const story = async (): Promise<void> => {
    await Promise.resolve();
    work("story");
    await new Promise<void>((resolve) => {
      simulation.timersOf(own).after(5, () => {
        work("alarm");
        resolve();
      });
    });
  };
  await simulation.complete(story(), 10_000, [own, storysToo]);
  expect(seen.story).toBeGreaterThan(0);
  expect(seen.alarm).toBeGreaterThan(0);
});

test("a story that waits for nothing that can come fails with the seed", async () => {
  const simulation = new Simulation(5);
  await expect(simulation.complete(new Promise(() => undefined), 100)).rejects.toMatchObject({
    seed: 5,
    message: expect.stringContaining("a wake-up was lost") as string,
  });
});

test("a machine that never comes to rest fails with the seed, after the steps it was given", async () => {
  const simulation = new Simulation(6);
  const restless: Actor = { name: "restless", step: () => true };
  simulation.wake(restless);
  expect(() => simulation.run(100)).toThrow(
    expect.objectContaining({ seed: 6, message: "no rest after 100 steps (seed 6)" }) as Error,
  );
  expect(simulation.steps).toBe(100);
  await expect(simulation.complete(new Promise(() => undefined), 50)).rejects.toMatchObject({
    seed: 6,
    message: "no end after 50 steps (seed 6)",
  });
  expect(simulation.steps).toBe(150);
});

test("an alarm that sets itself for the same moment fails a run, and a story that waits for it", async () => {
  const simulation = new Simulation(1);
  const timer = simulation.after(0, () => timer.again(0));
  expect(() => simulation.run(1000)).toThrow("no rest after 1000 steps");
  await expect(simulation.complete(new Promise(() => undefined), 1000)).rejects.toThrow(
    "no end after 1000 steps",
  );
});
