import { availableParallelism } from "node:os";
import { describe, expect, test } from "vitest";
import { AdaptiveSpin, spinLimitUs } from "@hyperv-is/platform-node";

describe("adaptive spin", () => {
  test("starts at half the limit, doubles up to it, halves down to nothing", () => {
    const spin = new AdaptiveSpin(100);
    const budgets = [spin.budgetUs];
    for (const succeeded of [true, true, false, false, false, false, false, false]) {
      if (succeeded) spin.succeeded();
      else spin.failed();
      budgets.push(spin.budgetUs);
    }
    expect(budgets).toEqual([50, 100, 100, 50, 25, 12.5, 6.25, 0, 0]);
  });

  test("comes back only after a sleep that was so short that spinning would have done", () => {
    const spin = new AdaptiveSpin(100);
    for (let failures = 0; failures < 6; failures++) spin.failed();
    spin.wokenAfter(5_000);
    expect(spin.budgetUs).toBe(0);
    spin.wokenAfter(60);
    expect(spin.budgetUs).toBe(50);
  });

  test("a limit of 0 stays 0", () => {
    const spin = new AdaptiveSpin(0);
    spin.wokenAfter(1);
    spin.succeeded();
    expect(spin.budgetUs).toBe(0);
  });

  test.each([
    [{}, availableParallelism() > 1 ? 100 : 0],
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
