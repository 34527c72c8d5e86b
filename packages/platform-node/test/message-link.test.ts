import { MessageChannel, receiveMessageOnPort } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { messageLinkPair, type MessageLinkPair } from "@hyperv-is/vmbus-core";
import { CpuLink, createDoorbells, DoorbellCause } from "@hyperv-is/platform-node";

/** A pair of ends, and how often each was woken. */
interface Setup {
  readonly pair: MessageLinkPair<unknown, unknown>;
  readonly wokenLeft: () => boolean;
  readonly wokenRight: () => boolean;
}

const settings: Record<string, () => Setup> = {
  "two ports": () => {
    const [left, right] = createDoorbells(2);
    const { port1, port2 } = new MessageChannel();
    return {
      pair: { left: new CpuLink(port1, right), right: new CpuLink(port2, left) },
      wokenLeft: () => left!.take() === DoorbellCause.message,
      wokenRight: () => right!.take() === DoorbellCause.message,
    };
  },
  "one thread": () => {
    let left = false;
    let right = false;
    const taken = (was: boolean, clear: () => void): boolean => {
      clear();
      return was;
    };
    return {
      pair: messageLinkPair<unknown, unknown>(
        () => (left = true),
        () => (right = true),
      ),
      wokenLeft: () => taken(left, () => (left = false)),
      wokenRight: () => taken(right, () => (right = false)),
    };
  },
};

describe.each(Object.entries(settings))("a link over %s", (_, setup) => {
  test("carries messages both ways, in order, and wakes the other end only", () => {
    const { pair, wokenLeft, wokenRight } = setup();
    pair.left.send("a");
    pair.left.send({ b: [1, 2n] });
    expect([wokenLeft(), wokenRight()]).toEqual([false, true]);
    expect(pair.left.receive()).toBeUndefined();
    expect(pair.right.receive()).toBe("a");
    pair.right.send(0);
    expect([wokenLeft(), wokenRight()]).toEqual([true, false]);
    expect(pair.right.receive()).toEqual({ b: [1, 2n] });
    expect(pair.right.receive()).toBeUndefined();
    expect(pair.left.receive()).toBe(0);
    pair.left.close();
  });

  test("the receiver gets a copy, but shares shared memory", () => {
    const { pair } = setup();
    const sent = { list: [1], shared: new Int32Array(new SharedArrayBuffer(4)) };
    pair.left.send(sent);
    sent.list.push(2);
    const received = pair.right.receive() as typeof sent;
    expect(received.list).toEqual([1]);
    sent.shared[0] = 5;
    expect(received.shared[0]).toBe(5);
    pair.left.close();
  });

  test("what cannot be copied is refused at the sender, and nothing arrives", () => {
    const { pair, wokenRight } = setup();
    expect(() => pair.left.send(() => 1)).toThrow(
      expect.objectContaining({ name: "DataCloneError" }) as Error,
    );
    expect(wokenRight()).toBe(false);
    expect(pair.right.receive()).toBeUndefined();
    pair.left.close();
  });

  test("nothing passes a closed end, and neither end minds", () => {
    const { pair } = setup();
    pair.left.send("too late to be received");
    pair.right.close();
    pair.right.close();
    expect(pair.right.receive()).toBeUndefined();
    pair.right.send("lost");
    expect(pair.left.receive()).toBeUndefined();
    pair.left.send("lost");
    expect(pair.right.receive()).toBeUndefined();
    pair.left.close();
  });
});

test("a link whose other end listens to events rings nothing", () => {
  const { port1, port2 } = new MessageChannel();
  new CpuLink(port1, undefined).send("plain");
  expect(receiveMessageOnPort(port2)?.message).toBe("plain");
  port1.close();
});
