import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as ic from "../src/protocol/index.js";
import { vector } from "./vectors.js";

const v = ic.icVersion;

describe("messages", () => {
  const heartbeat = vector("V7");
  const changed = (at: number, ...bytes: number[]): Uint8Array => {
    const copy = Uint8Array.from(heartbeat);
    copy.set(bytes, at);
    return copy;
  };
  const cases: readonly (readonly [string, Uint8Array, ic.IcMessageFlaw])[] = [
    ["nothing", new Uint8Array(), "short"],
    ["27 bytes", heartbeat.subarray(0, 27), "short"],
    ["a pipe packet of type 2", changed(0, 2), "pipe-type"],
    ["a pipe packet shorter than the header", changed(4, 19), "pipe-length"],
    ["a pipe packet longer than what came", changed(4, 0x25), "pipe-length"],
    ["a body longer than the pipe packet", changed(18, 0x11), "body-length"],
    ["a body of 65,535 bytes", changed(18, 0xff, 0xff), "body-length"],
  ];
  test.each(cases)("%s is none: %s", (_, payload, flaw) => {
    expect(ic.parseIcMessage(payload)).toBe(flaw);
  });

  test("a body that goes on in the padding is none", () => {
    const padded = new Uint8Array(48);
    padded.set(changed(18, 0x14));
    expect(ic.parseIcMessage(padded)).toBe("body-length");
  });

  test("one that is larger than any message is none, and is not made", () => {
    const large = new Uint8Array(8 + ic.IC_MESSAGE_MAX_BYTES + 8);
    large.set(heartbeat);
    const view = new DataView(large.buffer);
    view.setUint32(4, ic.IC_MESSAGE_MAX_BYTES, true);
    expect(ic.parseIcMessage(large)).toMatchObject({ type: 1 });
    view.setUint32(4, ic.IC_MESSAGE_MAX_BYTES + 1, true);
    expect(ic.parseIcMessage(large)).toBe("pipe-length");
    const body = new Uint8Array(ic.IC_MESSAGE_MAX_BYTES - 19);
    const message = ic.parseIcMessage(heartbeat) as ic.IcMessage;
    expect(() => ic.emitIcMessage({ ...message, body })).toThrow(RangeError);
  });

  test("what a ring pads, and what a peer leaves behind the body, is not in it", () => {
    const padded = new Uint8Array(48);
    padded.set(heartbeat);
    padded.fill(0xa5, 44);
    expect(ic.parseIcMessage(padded)).toEqual(ic.parseIcMessage(heartbeat));
    expect(ic.parseIcMessage(changed(18, 8))).toMatchObject({ body: heartbeat.subarray(28, 36) });
  });
});

describe("versions", () => {
  const version = fc.constantFrom(v(1), v(3), v(3, 1), v(3, 2), v(4), v(5), v(0x8000), 0xffff_ffff);
  const list = fc.uniqueArray(version, { minLength: 1 });
  const lists = fc.record({ frameworks: list, messages: list });

  test("an offer is parsed as it was made", () => {
    fc.assert(
      fc.property(lists, (offer) => {
        expect(ic.parseIcOffer(ic.emitIcOffer(offer))).toEqual(offer);
      }),
    );
  });

  test("the choice is the best of one's own that was offered, whatever the order of the offer", () => {
    fc.assert(
      fc.property(lists, lists, (own, offer) => {
        const best = (mine: readonly number[], theirs: readonly number[]): number =>
          Math.min(...theirs.map((one) => (mine.includes(one) ? mine.indexOf(one) : Infinity)));
        const framework = own.frameworks[best(own.frameworks, offer.frameworks)];
        const message = own.messages[best(own.messages, offer.messages)];
        expect(ic.chooseIcVersions(own, offer)).toEqual(
          framework === undefined || message === undefined ? undefined : { framework, message },
        );
      }),
    );
  });

  test.each([
    ["an empty body", []],
    ["no framework version", [0, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0]],
    ["no message version", [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]],
    ["more versions than the body has", [1, 0, 2, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0]],
    ["65,535 versions", [255, 255, 255, 255, 0, 0, 0, 0, 3, 0, 0, 0]],
    ["101 of one kind", [101, 0, 1, 0, 0, 0, 0, 0, ...Array<number>(408).fill(1)]],
    ["101 of the other", [1, 0, 101, 0, 0, 0, 0, 0, ...Array<number>(408).fill(1)]],
  ])("%s is no offer", (_, body) => {
    expect(ic.parseIcOffer(Uint8Array.from(body))).toBeUndefined();
  });

  test.each([
    ["an empty body", [], undefined],
    ["counts without versions", [1, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0], undefined],
    ["counts of 0", [0, 0, 0, 0, 0, 0, 0, 0], "none"],
    ["two message versions", [1, 0, 2, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0], "none"],
  ])("%s as an answer", (_, body, choice) => {
    expect(ic.parseIcChoice(Uint8Array.from(body))).toBe(choice);
  });

  test("a version that has no place is not written", () => {
    expect(() => ic.emitIcChoice({ framework: -1, message: 0 })).toThrow(RangeError);
    expect(() => ic.emitIcChoice({ framework: 2 ** 32, message: 0 })).toThrow(RangeError);
  });
});

describe("bodies of which guests send or read less", () => {
  const whole = Uint8Array.from({ length: 2060 }, (_, index) => index % 251);
  test.each([
    ["heartbeat", 8, ic.parseHeartbeat, "sequence"],
    ["shutdown", 12, ic.parseShutdown, "flags"],
    ["time synchronisation 3.0", 25, ic.parseTimeSync, "flags"],
    ["time synchronisation 4.0", 17, ic.parseTimeSync4, "flags"],
  ] as const)("%s needs %i bytes", (_, least, parse, last) => {
    expect(parse(whole.subarray(0, least - 1))).toBeUndefined();
    const short: object = parse(whole.subarray(0, least))!;
    expect(short).toMatchObject({ [last]: (parse(whole) as Record<string, unknown>)[last] });
  });
});

test("sequence numbers are of 64 bits", () => {
  expect(ic.nextSequence(41n)).toBe(42n);
  expect(ic.nextSequence(0xffff_ffff_ffff_ffffn)).toBe(0n);
});

test("the message of a shutdown: text up to the NUL, nothing that a terminal would obey", () => {
  const text = (units: string): string => ic.shutdownText(ic.emitShutdownText(units));
  expect(text("Backup at 6 \u{1f4be}")).toBe("Backup at 6 \u{1f4be}");
  expect(text("now\0\u001b[2J")).toBe("now");
  expect(text("a\u001b[2J\nb\ud800c")).toBe("a\ufffd[2J\ufffdb\ufffdc");
  expect(() => text("x".repeat(1024))).toThrow(RangeError);
  expect(ic.shutdownText(Uint8Array.of(65, 0, 66))).toBe("A");
});
