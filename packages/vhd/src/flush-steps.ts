import { type BlockFile } from "./block-file.js";

/**
 * A flush as a sequence of steps. At each `yield` the file has to be flushed before the next step; a failure
 * of that is thrown in. Whoever goes through the steps may do so while other calls of the file go on.
 */
export type FlushSteps = Generator<undefined, void, void>;

/** Goes through the steps at once. */
export function finishFlush(steps: FlushSteps, file: BlockFile): void {
  while (steps.next().done !== true) {
    try {
      file.flush();
    } catch (error) {
      steps.throw(error);
    }
  }
}
