import { expect, test } from "vitest";
import { GpaRanges } from "@hyperv-is/vmbus-core";
import { DiskOperation, Outcome, type DiskCompletions } from "../src/index.js";
import { RamDisk } from "./ram-target.js";
import { Rig } from "./rig.js";
import { leastGarbage } from "../../../tools/garbage.js";

const REQUESTS = 20_000;
const DEPTH = 32;

/** The host of this test makes no garbage itself: it turns each request into its completion by ids alone. */
function answerWithoutAllocation(rig: Rig): void {
  const { host } = rig;
  const words = new Int32Array(16);
  const bytes = new Uint8Array(words.buffer);
  words[0] = 1;
  bytes[14] = 0x01;
  words[6] = 4096;
  host.packet = (channel) => {
    const { incoming, outgoing } = channel;
    channel.begin(11, 0, 16, 80, incoming.idLow, incoming.idHigh);
    outgoing.putWords(words, 0, 16);
    outgoing.end();
  };
}

test("reads allocate nothing", async () => {
  const rig = new Rig();
  rig.target.disks.set("0:0", new RamDisk(4096, "S"));
  const controller = await rig.attach();
  answerWithoutAllocation(rig);
  let completed = 0;
  let failed = 0;
  let submitted = 0;
  const lists: GpaRanges[] = [];
  const completions: DiskCompletions = {
    complete(slot, outcome) {
      completed++;
      if (outcome !== Outcome.ok) failed++;
      if (submitted < limit) submit(slot);
    },
  };
  const queue = controller.disks[0]!.openQueue(DEPTH, completions);
  for (let slot = 0; slot < DEPTH; slot++) {
    const list = new GpaRanges(rig.memory);
    // Half of them over two pages.
    list.add(rig.allocator.allocate(2)! + (slot & 1) * 512, 4096);
    lists.push(list);
  }
  const { left, right } = rig.connected!;
  let limit = 0;
  const submit = (slot: number): void => {
    submitted++;
    queue.submit(DiskOperation.read, (submitted * 8) % 4000, 8, lists[slot], slot);
  };
  const run = (count: number): void => {
    limit = submitted + count;
    for (let slot = 0; slot < DEPTH; slot++) submit(slot);
    queue.flush();
    // Both ends by turns; the dispatcher in between makes garbage of its own.
    while (completed < submitted) {
      right.poll(1000);
      left.poll(1000);
    }
  };
  const least = leastGarbage(REQUESTS, () => {
    run(REQUESTS);
  });
  expect(failed).toBe(0);
  expect(completed).toBe(submitted);
  // Bytes per request; the smallest object there is has 12.
  expect(least).toBeLessThan(1);
});
