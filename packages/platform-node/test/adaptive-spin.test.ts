import { availableParallelism } from "node:os";
import { describe, expect, test } from "vitest";
import { AdaptiveSpin, spinLimitUs } from "@hyperv-is/platform-node";

describe("adaptive spin", () => {
  test("starts at half the limit, doubles up to it, halves down to nothing", () => {
    const spin = new AdaptiveSpin(100);
    const budgets = [spin.budgetUs];
    for (const found of [true, true, false, false, false, false, false, false]) {
      spin.spun(20, found);
      budgets.push(spin.budgetUs);
    }
    expect(budgets).toEqual([50, 100, 100, 50, 25, 12.5, 6.25, 0, 0]);
  });

  /** Short sleeps until spinning is tried again. */
  function sleepsUntilTried(spin: AdaptiveSpin): number {
    let sleeps = 0;
    for (; spin.budgetUs === 0 && sleeps < 5_000; sleeps++) spin.slept(60);
    return sleeps;
  }

  /** Spins in vain until the budget is 0. */
  function giveUp(spin: AdaptiveSpin): void {
    while (spin.budgetUs > 0) spin.spun(spin.budgetUs, false);
  }

  test("comes back after short sleeps, each time later, until it finds work again", () => {
    const spin = new AdaptiveSpin(100);
    const sleeps: number[] = [];
    for (let times = 0; times < 10; times++) {
      giveUp(spin);
      sleeps.push(sleepsUntilTried(spin));
    }
    expect(sleeps).toEqual([8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]);
    expect(spin.budgetUs).toBe(100);
    spin.spun(20, true);
    giveUp(spin);
    expect(sleepsUntilTried(spin)).toBe(8);
  });

  test("long sleeps do not bring it back", () => {
    const spin = new AdaptiveSpin(100);
    giveUp(spin);
    for (let sleeps = 0; sleeps < 100; sleeps++) {
      spin.slept(60);
      if (sleeps % 7 === 6) spin.slept(150);
    }
    expect(spin.budgetUs).toBe(0);
  });

  test.each([true, false])(
    "ends at once when the thread lost its core (work found: %s)",
    (found) => {
      const spin = new AdaptiveSpin(100);
      spin.spun(601, found);
      expect(spin.budgetUs).toBe(0);
    },
  );

  test("a limit of 0 stays 0", () => {
    const spin = new AdaptiveSpin(0);
    expect(sleepsUntilTried(spin)).toBe(5_000);
    spin.spun(1, true);
    expect(spin.budgetUs).toBe(0);
  });

  test.each([
    [{}, availableParallelism() > 1 ? 200 : 0],
    [{ HYPERV_IS_SPIN: "on", HYPERV_IS_SPIN_US: "20" }, 20],
    [{ HYPERV_IS_SPIN_US: "0" }, 0],
    [{ HYPERV_IS_SPIN: "off", HYPERV_IS_SPIN_US: "20" }, 0],
  ])("%j in the environment is %d us", (environment, limit) => {
    expect(spinLimitUs(environment)).toBe(limit);
  });

  test.each([{ HYPERV_IS_SPIN: "no" }, { HYPERV_IS_SPIN_US: "1e3" }, { HYPERV_IS_SPIN_US: "-1" }])(
    "%j in the environment is refused",
    (environment) => {
      expect(() => spinLimitUs(environment)).toThrow(
        expect.objectContaining({ code: "ERR_BAD_SETTING" }) as Error,
      );
    },
  );
});
