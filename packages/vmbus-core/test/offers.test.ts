import { describe, expect, test } from "vitest";
import { DeviceClass, ProtocolVersion, type OfferChannel } from "@hyperv-is/vmbus-core/protocol";
import { OfferTable } from "../src/bus/offers.js";

const INSTANCES = [
  "00000000-0000-0000-0000-00000000000a",
  "00000000-0000-0000-0000-00000000000b",
] as const;

function offer(relid: number, fields: Partial<OfferChannel> = {}): OfferChannel {
  return {
    classId: DeviceClass.scsi.classId,
    instanceId: INSTANCES[0],
    flags: 0,
    mmioMegabytes: 0,
    userData: new Uint8Array(120),
    subChannelIndex: 0,
    mmioMegabytesOptional: 0,
    relid,
    monitorId: 0,
    monitorAllocated: false,
    dedicatedInterrupt: true,
    connectionId: 0x2000 + relid,
    ...fields,
  };
}

const sub = (relid: number, fields: Partial<OfferChannel> = {}): OfferChannel =>
  offer(relid, { subChannelIndex: 1, ...fields });

const always = (): boolean => true;
const never = (): boolean => false;

/** What a table makes of an offer, in short. */
function judge(table: OfferTable, offered: OfferChannel, isOpen = always): string {
  const outcome = table.offer(offered, isOpen);
  switch (outcome.kind) {
    case "device":
      return "device";
    case "sub-channel":
      return `sub-channel of ${outcome.primary}`;
    case "refused":
      return `${outcome.reason}${outcome.release ? ", release" : ""}`;
  }
}

function table(version: number = ProtocolVersion.v5_3): OfferTable {
  const made = new OfferTable(version);
  expect(judge(made, offer(14))).toBe("device");
  return made;
}

describe("offers", () => {
  test.each([
    ["a second device of the class", offer(15, { instanceId: INSTANCES[1] }), "device"],
    [
      "the same instance of another class",
      offer(15, { classId: DeviceClass.network.classId }),
      "device",
    ],
    ["a device again", offer(15), "duplicate-device"],
    ["the same offer again", offer(14), "relid-in-use"],
    ["another device on a relid in use", offer(14, { instanceId: INSTANCES[1] }), "relid-in-use"],
    ["relid 0", offer(0, { instanceId: INSTANCES[1] }), "relid-range"],
    ["the last relid", offer(2047, { instanceId: INSTANCES[1] }), "device"],
    ["one relid more", offer(2048, { instanceId: INSTANCES[1] }), "relid-range"],
    ["a sub-channel", sub(15), "sub-channel of 14"],
    [
      "a sub-channel of another instance",
      sub(15, { instanceId: INSTANCES[1] }),
      "late-sub-channel, release",
    ],
    [
      "a sub-channel of another class",
      sub(15, { classId: DeviceClass.ide.classId }),
      "late-sub-channel, release",
    ],
    ["a sub-channel on a relid in use", sub(14), "relid-in-use"],
    ["a sub-channel without relid", sub(0), "relid-range"],
  ])("beside a device on relid 14: %s", (_what, offered, expected) => {
    expect(judge(table(), offered)).toBe(expected);
  });

  test("below 2.4 there are 255 relids and no sub-channels", () => {
    const old = table(ProtocolVersion.v1_1);
    expect(judge(old, offer(255, { instanceId: INSTANCES[1] }))).toBe("device");
    expect(judge(old, offer(256, { classId: DeviceClass.ide.classId }))).toBe("relid-range");
    expect(judge(old, sub(15))).toBe("no-sub-channels");
  });

  test("a refused offer leaves no trace", () => {
    const made = table();
    judge(made, sub(15), never);
    judge(made, offer(16));
    expect(made.size).toBe(1);
    expect(made.rescind(15)).toBe(false);
    expect(judge(made, sub(15))).toBe("sub-channel of 14");
  });

  test("sub-channels of a device that is not open are late", () => {
    expect(judge(table(), sub(15), never)).toBe("late-sub-channel, release");
  });

  test("a rescinded device is matched no more, but its relid is taken until it is released", () => {
    const made = table();
    expect(made.rescind(14)).toBe(true);
    expect(made.rescind(14)).toBe(false);
    expect(judge(made, sub(15))).toBe("late-sub-channel, release");
    expect(judge(made, offer(14))).toBe("relid-in-use");
    // A host that gives the device another relid at once is odd but not wrong.
    expect(judge(made, offer(16))).toBe("device");
    expect(judge(made, sub(17))).toBe("sub-channel of 16");
    made.release(14);
    expect(judge(made, offer(14, { classId: DeviceClass.network.classId }))).toBe("device");
    expect(made.rescind(14)).toBe(true);
  });

  test("a sub-channel is rescinded by itself", () => {
    const made = table();
    judge(made, sub(15));
    expect(made.rescind(15)).toBe(true);
    expect(judge(made, sub(16))).toBe("sub-channel of 14");
    expect(made.rescind(99)).toBe(false);
  });
});
