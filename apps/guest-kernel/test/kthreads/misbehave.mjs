// A kernel thread that does what no thread should, as it is told.
import process from "node:process";
import { DiskOperation } from "@hyperv-is/hv-storvsc";

/** @import { KthreadContext } from "@hyperv-is/guest-kernel" */

/** @param {KthreadContext} context */
export async function main(context) {
  const { how } = /** @type {{ how: string }} */ (context.args);
  // After something that takes a while, so that the thread has begun.
  await new Promise((resolve) => context.timers.after(1, () => resolve(undefined)));
  switch (how) {
    case "throw":
      throw new TypeError("told to throw");
    case "return a function":
      return () => undefined;
    case "ignore the end":
      return new Promise(() => undefined);
    case "exit":
      return process.exit(3);
    case "spin":
      for (;;);
    case "throw in a completion": {
      const disk = await context.disk("da0");
      const { address } = context.allocateBuffer(4096);
      const queue = disk.openQueue(1, {
        complete() {
          throw new Error("told to throw in a completion");
        },
      });
      const run = {
        runs: 1,
        lengthBytes: 4096,
        runAddress: () => address,
        runLength: () => 4096,
      };
      queue.submit(DiskOperation.read, 0, 4096 / disk.blockBytes, run, 0);
      queue.flush();
      return new Promise(() => undefined);
    }
    default:
      throw new Error(`no such misdeed: ${how}`);
  }
}
