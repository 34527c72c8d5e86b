// A kernel thread that waits for its end, with Node's own timers if it is told to.
import { setTimeout } from "node:timers/promises";

/** @import { KthreadContext } from "@hyperv-is/guest-kernel" */

/** @param {KthreadContext} context */
export async function main(context) {
  const args = /** @type {string[]} */ (context.args ?? []);
  context.log(`waiting with ${args.join(" ")}`);
  if (args[0] === "nap") await context.during(setTimeout(1));
  if (args[0] === "now") return args.slice(1);
  const { signal } = context;
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener("abort", () => resolve(undefined)));
  return "ended";
}
