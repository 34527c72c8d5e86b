import { expect, test } from "vitest";
import { ringMutants, simulateChannel } from "@hyperv-is/conformance";

const first = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const count = Number(process.env["SOAK_COUNT"] ?? 1_000_000);

test(`${count} schedules of two channel ends from seed ${first}`, () => {
  for (let seed = first; seed < first + count; seed++) {
    simulateChannel({ seed });
    if ((seed - first + 1) % 50_000 === 0) console.log(`${seed - first + 1} schedules`);
  }
});

test.each(ringMutants)("how often 10,000 schedules catch %s", (mutant) => {
  let caught = 0;
  for (let seed = first; seed < first + 10_000; seed++) {
    try {
      simulateChannel({ seed, mutant });
    } catch {
      caught++;
    }
  }
  console.log(`${mutant}: caught by ${caught} of 10000 schedules`);
  expect(caught).toBeGreaterThan(0);
});
