import { test } from "vitest";
import { runComponentSchedule } from "./components-campaign.js";

const first = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const count = Number(process.env["SOAK_COUNT"] ?? 10_000);

test(`${count} schedules of the integration components with faults, from seed ${first}`, async () => {
  const begin = performance.now();
  const failed: string[] = [];
  const totals = new Map<string, number>();
  const add = (name: string, number: number): void =>
    void totals.set(name, (totals.get(name) ?? 0) + number);
  for (let seed = first; seed < first + count; seed++) {
    try {
      const { busVersion, ...numbers } = await runComponentSchedule(seed);
      add(`protocol ${busVersion}`, 1);
      for (const [name, number] of Object.entries(numbers)) add(name, number);
    } catch (error) {
      failed.push(String(error));
      console.log(String(error));
    }
    const done = seed - first + 1;
    if (done % 1000 === 0)
      console.log(`${done} schedules, ${Math.round((performance.now() - begin) / 1000)} s`);
  }
  console.log(Object.fromEntries([...totals].sort()));
  if (failed.length > 0) throw new Error(`${failed.length} of ${count} schedules failed`);
});
