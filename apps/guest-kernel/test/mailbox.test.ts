import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { Mailbox } from "../src/console/mailbox.js";

test("a command that waits again and again leaves nothing at its interrupt", async () => {
  const timers = new VirtualTimers();
  const mailbox = new Mailbox<number>(timers, 10);
  const { signal } = new AbortController();
  for (let item = 0; item < 20; item++) {
    const taken = mailbox.take(Infinity, signal);
    mailbox.put(item);
    expect(await taken).toBe(item);
    const late = mailbox.take(timers.now() + 5, signal);
    timers.advance(5);
    expect(await late).toBeUndefined();
  }
  expect(getEventListeners(signal, "abort")).toEqual([]);
  expect(timers.nextMs).toBe(Infinity);
});
