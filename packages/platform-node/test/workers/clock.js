// Answers each message with what the clock of this thread reads.
import { NodeClock, runWorker } from "@hyperv-is/platform-node";

await runWorker("blocking", ({ starter }) => {
  const clock = new NodeClock();
  return { drain: () => false, message: () => starter.send(clock.now()) };
});
