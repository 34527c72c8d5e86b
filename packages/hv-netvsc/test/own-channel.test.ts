import { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import {
  connectedChannels,
  VirtualTimers,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import { expect, test } from "vitest";
import { attachOverChannel } from "../src/index.js";
import { codeOf, small } from "./rig.js";
import { ScriptedAdapter } from "./scripted-host.js";

const RING_PAGES = 17;

test("an interface attaches over a channel of one's own, changes its MTU, and lets go of everything", async () => {
  const memory = new GuestMemory(new ArrayBuffer(512 * PAGE_SIZE));
  const allocator = new PageAllocator(memory, 2 * RING_PAGES * PAGE_SIZE, 470 * PAGE_SIZE);
  const timers = new VirtualTimers();
  const adapter = new ScriptedAdapter(memory);
  const before = allocator.freePages;
  let pair: ConnectedChannels | undefined;
  let closed = 0;
  const attached = attachOverChannel(
    {
      memory,
      allocator,
      timers,
      connect(left) {
        const right = adapter.channel(0);
        pair = connectedChannels({ memory, left, right, ringPages: RING_PAGES });
        right.channel = pair.right;
        return pair.left;
      },
      share(address, lengthBytes) {
        adapter.gpadls.set(adapter.gpadls.size + 1, { address, lengthBytes });
        return adapter.gpadls.size;
      },
      close: () => closed++,
    },
    small,
  );
  const settle = async <T>(promise: Promise<T>): Promise<T> => {
    let settled = false;
    const done = (): void => void (settled = true);
    promise.then(done, done);
    while (!(settled as boolean)) {
      pair?.run();
      await new Promise((resolve) => setImmediate(resolve));
      if (Number.isFinite(timers.nextMs))
        timers.advance(Math.min(200, timers.nextMs - timers.now()));
    }
    return promise;
  };
  const hn = await settle(attached);
  expect(hn.channels).toHaveLength(1);
  expect(await settle(hn.setMtu(9000))).toBe(9000);
  await settle(hn.detach());
  expect(allocator.freePages).toBe(before);
  expect(closed).toBe(2);
  expect(await codeOf(hn.setFilter(1))).toBe("ERR_CLOSED");
});
