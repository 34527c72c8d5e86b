import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

/** Room for all garbage of a run, of which none is collected then. */
const ROOM = ["--min-semi-space-size=64", "--max-semi-space-size=64"];
/** A number that is no small integer takes 16 bytes; a turn of Node's event loop 370, once in many batches. */
const ENOUGH_BYTES = 8;

// In a process of its own: the engine compiles the pump otherwise where much else has run.
test.each([
  ["at every other look", 2],
  ["within a spin", 100],
  ["after several looks at the clock", 400],
])("an async pump leaves no garbage for a batch of work %s", (_, looksPerBatch) => {
  const program = fileURLToPath(new URL("./pump-garbage.mjs", import.meta.url));
  const args = [...ROOM, program, String(looksPerBatch)];
  const told = execFileSync(process.execPath, args, { encoding: "utf8", stdio: "pipe" });
  expect(Number(told)).toBeLessThan(ENOUGH_BYTES);
});
