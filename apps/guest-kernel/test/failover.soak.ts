import { expect, test } from "vitest";
import { failover } from "./failover-demo.js";

const rounds = Number(process.env["SOAK_COUNT"] ?? 10);
/** From the start of the second host to the first answer. */
const LIMIT_MS = 2_000;

test.each(["kill", "stop"] as const)(`${rounds} failovers after a %s`, async (kind) => {
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const { firstAnswerMs } = await failover(...(kind === "stop" ? ["--stop"] : []));
    times.push(firstAnswerMs);
  }
  times.sort((left, right) => left - right);
  console.log(`${kind}: ${times.join(", ")} ms from the start of the host to the first answer`);
  expect(times.at(-1)).toBeLessThan(LIMIT_MS);
});
