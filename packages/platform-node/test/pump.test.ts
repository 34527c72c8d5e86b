import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { describe, expect, test, vi } from "vitest";
import {
  createDoorbells,
  Pump,
  startWorker,
  type PumpKind,
  type PumpOptions,
} from "@hyperv-is/platform-node";

const kinds: readonly PumpKind[] = ["async", "blocking"];

function pumpOf(kind: PumpKind, options: PumpOptions = {}): Pump {
  return new Pump(kind, createDoorbells(1)[0]!, options);
}

describe.each(kinds)("a pump that is %s", (kind) => {
  test("drains until nothing is left, and does not sleep before", async () => {
    const pump = pumpOf(kind, { spinLimitUs: 0 });
    let left = 1000;
    let sleptBefore: number | undefined;
    await pump.run({
      drain() {
        if (left === 0) return false;
        if (--left > 0) return true;
        sleptBefore = pump.sleeps;
        pump.timers.after(50, () => pump.doorbell.requestStop());
        return true;
      },
    });
    expect(sleptBefore).toBe(0);
    expect(pump.sleeps).toBeGreaterThan(0);
  });

  test("ends at once when a stop was requested before", async () => {
    const pump = pumpOf(kind);
    pump.doorbell.requestStop();
    let drains = 0;
    await pump.run({ drain: () => ++drains > 0 });
    expect(drains).toBe(0);
  });

  test("ends though its work never does", async () => {
    const pump = pumpOf(kind);
    pump.timers.after(5, () => pump.doorbell.requestStop());
    await pump.run({ drain: () => true });
    expect(pump.sleeps).toBe(0);
  });

  test("lets Node's events in though its work never ends", async () => {
    const pump = pumpOf(kind);
    setTimeout(() => pump.doorbell.requestStop(), 1);
    await pump.run({ drain: () => true });
  });

  test("rejects with what a drain or a timer throws, and could be run again", async () => {
    const pump = pumpOf(kind);
    const drain = (): boolean => {
      throw new Error("from a drain");
    };
    await expect(pump.run({ drain })).rejects.toThrow("from a drain");
    pump.timers.after(1, () => {
      throw new Error("from a timer");
    });
    await expect(pump.run({ drain: () => false })).rejects.toThrow("from a timer");
    pump.timers.after(1, () => pump.doorbell.requestStop());
    await pump.run({ drain: () => false });
  });

  test("runs what a timer made, and work that a timer brought", async () => {
    const pump = pumpOf(kind, { spinLimitUs: 0 });
    const seen: string[] = [];
    let work = 0;
    pump.timers.after(2, () => {
      work = 1;
      pump.timers.after(2, () => pump.doorbell.requestStop());
    });
    await pump.run({
      drain() {
        if (work === 0) return false;
        work = 0;
        seen.push("work");
        return true;
      },
    });
    expect(seen).toEqual(["work"]);
  });

  test("looks for work before it runs a timer that is due by then", async () => {
    let now = 0;
    const pump = pumpOf(kind, { spinLimitUs: 0, clock: { now: () => now } });
    const seen: string[] = [];
    pump.timers.after(1, () => {
      seen.push("timer");
      pump.doorbell.requestStop();
    });
    now = 1;
    await pump.run({
      drain() {
        if (seen.length === 0) seen.push("work");
        return false;
      },
    });
    expect(seen).toEqual(["work", "timer"]);
  });

  test("lets a promise go on that a timer settles in the last look before a sleep", async () => {
    let now = 0;
    const pump = pumpOf(kind, { spinLimitUs: 0, clock: { now: () => now } });
    const due = new Promise<void>((resolve) => pump.timers.after(50, resolve));
    void due.then(() => pump.doorbell.requestStop());
    await pump.run({
      drain() {
        // The first look is the turn's; the next is the one before the sleep, and the timer is due.
        now = 100;
        return false;
      },
    });
    expect(pump.sleeps).toBe(0);
  });

  test("serves Node while a promise needs it, then sleeps as before", async () => {
    const pump = pumpOf(kind);
    let begun = false;
    await pump.run({
      drain() {
        if (begun) return false;
        begun = true;
        void pump
          .during(new Promise((resolve) => setTimeout(resolve, 3)))
          .then(() => pump.timers.after(3, () => pump.doorbell.requestStop()));
        return true;
      },
    });
    expect(begun).toBe(true);
  });

  test("a promise that fails rejects where it was handed in", async () => {
    const pump = pumpOf(kind);
    const work = pump.during(Promise.reject(new Error("as asked")));
    await expect(work).rejects.toThrow("as asked");
  });

  test("ends its spin when its process has been stopped for an hour meanwhile", async () => {
    let now = 1;
    const pump = pumpOf(kind, { spinLimitUs: 1_000, clock: { now: () => now } });
    const { doorbell } = pump;
    const arm = vi.spyOn(doorbell, "arm").mockImplementationOnce(() => {
      doorbell.requestStop();
      return 0;
    });
    let looks = 0;
    await pump.run({
      drain() {
        if (++looks === 1_000) now += 3_600_000;
        if (looks === 10_000) doorbell.requestStop();
        return false;
      },
    });
    expect(arm).toHaveBeenCalledOnce();
  });

  test("uses less than 1 % of a core when idle", async () => {
    const entry = new URL("./workers/subject.js", import.meta.url);
    const worker = startWorker({ entry, name: "idle", data: { kind } });
    const share = await idleShare();
    expect(share).toBeLessThan(0.01);
    await worker.stop();
    // Asleep as it was, it heard that it should end.
    expect(await worker.exited).toMatchObject({ code: 0, stopRequested: true });
  });
});

test("an async pump hears of a timer that one of Node's events made while it slept", async () => {
  const pump = pumpOf("async", { spinLimitUs: 0 });
  pump.timers.after(30_000, () => undefined);
  setTimeout(() => pump.timers.after(1, () => pump.doorbell.requestStop()), 5);
  await pump.run({ drain: () => false });
});

describe("a turn from within one of Node's events", () => {
  /** Runs an async pump until it is asked to stop; the event comes while it sleeps. */
  async function during(
    event: (pump: Pump) => void,
    drain: (pump: Pump) => boolean,
    options: PumpOptions = {},
  ): Promise<Pump> {
    const pump = pumpOf("async", { spinLimitUs: 0, ...options });
    pump.timers.after(30_000, () => undefined);
    let isEvent = false;
    const whenAsleep = (): void => {
      if (pump.sleeps === 0) {
        setImmediate(whenAsleep);
        return;
      }
      isEvent = true;
      event(pump);
    };
    setImmediate(whenAsleep);
    await pump.run({ drain: () => isEvent && drain(pump) });
    return pump;
  }

  test("has the answer before the event ends, and wakes nobody", async () => {
    let looks = 0;
    let answeredAt = 0;
    const pump = await during(
      (pump) => {
        pump.turnNow();
        answeredAt = looks;
        pump.doorbell.requestStop();
      },
      () => ++looks === 10,
      { spinLimitUs: 20_000 },
    );
    // The last is the one before the sleep goes on.
    expect(answeredAt).toBe(11);
    expect(pump.sleeps).toBe(1);
  });

  test("looks once where spinning is off", async () => {
    let looks = 0;
    await during(
      (pump) => {
        pump.turnNow();
        // The second is the one before the sleep goes on.
        expect(looks).toBe(2);
        pump.doorbell.requestStop();
      },
      () => {
        looks++;
        return false;
      },
    );
  });

  test("loses no work that comes with a ring behind its last look", async () => {
    let looks = 0;
    await during(
      (pump) => pump.turnNow(),
      (pump) => {
        looks++;
        // Nobody is asleep, so the ring wakes nobody.
        if (looks === 1) pump.doorbell.ring();
        else if (looks === 3) pump.doorbell.requestStop();
        return looks === 2;
      },
    );
    expect(looks).toBe(3);
  });

  test("ends when it is asked to", async () => {
    await during(
      (pump) => pump.turnNow(),
      (pump) => {
        pump.doorbell.requestStop();
        return false;
      },
    );
  });

  test("keeps the time of a timer that it has made", async () => {
    let isMade = false;
    await during(
      (pump) => pump.turnNow(),
      (pump) => {
        if (!isMade) pump.timers.after(1, () => pump.doorbell.requestStop());
        isMade = true;
        return false;
      },
    );
  });

  test("ends the pump with what a drain throws", async () => {
    const running = during(
      (pump) => pump.turnNow(),
      () => {
        throw new Error("from a turn");
      },
    );
    await expect(running).rejects.toThrow("from a turn");
  });

  test("is none when it is taken within another, or on a pump that does not run", async () => {
    pumpOf("async").turnNow();
    let depth = 0;
    await during(
      (pump) => pump.turnNow(),
      (pump) => {
        expect(++depth).toBe(1);
        pump.turnNow();
        depth--;
        pump.doorbell.requestStop();
        return false;
      },
    );
  });
});

test("promises go on between two looks of an async pump, while it works and while it spins", async () => {
  const pump = pumpOf("async", { spinLimitUs: 1_000_000, turnUs: 1_000_000 });
  let hops = 0;
  const hop = async (): Promise<void> => {
    for (; hops < 50; hops++) await Promise.resolve();
  };
  let begun = false;
  let looks = 0;
  await pump.run({
    drain() {
      if (!begun) void hop();
      begun = true;
      if (hops === 50) pump.doorbell.requestStop();
      if (++looks > 10_000) throw new Error("the promises do not go on");
      return looks < 20;
    },
  });
  expect(hops).toBe(50);
});

test("looks at the clock seldom while it spins, since that costs as much as a look for work", async () => {
  let readings = 0;
  const clock = { now: () => (readings++, 1) };
  const pump = pumpOf("async", { spinLimitUs: 1_000, clock });
  let looks = 0;
  await pump.run({
    drain() {
      if (++looks === 6_500) pump.doorbell.requestStop();
      return false;
    },
  });
  expect(readings).toBeLessThan(200);
});

test("turns of a pump at work are longer once Node has had nothing to serve for a while", async () => {
  let now = 0;
  const pump = pumpOf("async", { spinLimitUs: 0, clock: { now: () => now } });
  const turns = [0];
  const serve = (): void => {
    const served = turns.length;
    if (served === 20) now += 1;
    turns.push(0);
    if (served === 40) pump.doorbell.requestStop();
    else setImmediate(serve);
  };
  setImmediate(serve);
  await pump.run({
    drain() {
      // About 8 us of work: a turn ends with the look that finds 50 us over, or 400.
      now += 1 / 128;
      turns[turns.length - 1]!++;
      return true;
    },
  });
  const repeat = (count: number, looks: number): number[] => Array<number>(count).fill(looks);
  const expected = [...repeat(16, 8), ...repeat(4, 53), ...repeat(16, 8), ...repeat(4, 53)];
  expect(turns.slice(0, 40)).toEqual(expected);
});

test("a process with nothing else to do waits for its pump, and ends after it", () => {
  const built = createRequire(import.meta.url).resolve("../dist/index.js");
  const script = (kind: PumpKind): string => `
    import { createDoorbells, Pump } from ${JSON.stringify(built)};
    const pump = new Pump("${kind}", createDoorbells(1)[0]);
    setTimeout(() => pump.doorbell.requestStop(), 50).unref();
    pump.timers.after(60, () => pump.doorbell.requestStop());
    await pump.run({ drain: () => false });
    console.log("ended");`;
  for (const kind of kinds) {
    const { stdout, status } = spawnSync(
      process.execPath,
      ["--input-type=module", "-e", script(kind)],
      { encoding: "utf8", timeout: 10_000 },
    );
    expect([stdout, status]).toEqual(["ended\n", 0]);
  }
});

/** The least share of a core that this process used in one of some periods of 300 ms; starting up takes the first. */
async function idleShare(): Promise<number> {
  const pump = pumpOf("async");
  let least = Infinity;
  let periods = 0;
  let before = process.cpuUsage();
  let start = pump.timers.now();
  const measure = (): void => {
    const used = process.cpuUsage(before);
    least = Math.min(least, (used.user + used.system) / 1e3 / (pump.timers.now() - start));
    if (++periods === 10 || least < 0.01) pump.doorbell.requestStop();
    before = process.cpuUsage();
    start = pump.timers.now();
    pump.timers.after(300, measure);
  };
  pump.timers.after(300, measure);
  await pump.run({ drain: () => false });
  return least;
}
