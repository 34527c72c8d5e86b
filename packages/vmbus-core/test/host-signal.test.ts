import { describe, expect, test } from "vitest";
import {
  ConnectionId,
  DeviceClass,
  ProtocolVersion,
  type OfferChannel,
} from "@hyperv-is/vmbus-core/protocol";
import { hostSignal } from "../src/bus/host-signal.js";

const { v0_13, v1_1, v2_4, v5_3 } = ProtocolVersion;
const OLD_PAGES = { interruptPage: 0x1000, monitorPage: 0x3000 };
const NEW_PAGES = { interruptPage: 0, monitorPage: 0x3000 };
const SEND_HALF = 0x1800;

const offer: OfferChannel = {
  classId: DeviceClass.network.classId,
  instanceId: "00000000-0000-0000-0000-000000000001",
  flags: 0,
  mmioMegabytes: 0,
  userData: new Uint8Array(120),
  subChannelIndex: 0,
  mmioMegabytesOptional: 0,
  relid: 14,
  monitorId: 0xff,
  monitorAllocated: false,
  dedicatedInterrupt: true,
  connectionId: 0x200e,
};
const monitored = { monitorId: 69, monitorAllocated: true };
/** Monitor 69 is bit 5 of group 2. */
const monitor = { pendingAddress: 0x3000 + 8 + 16, bit: 5 };

describe("the road of a signal to the host", () => {
  test.each([
    [
      "0.13",
      {},
      v0_13,
      OLD_PAGES,
      { connectionId: ConnectionId.event, interruptPageAddress: SEND_HALF },
    ],
    ["1.1, dedicated", {}, v1_1, OLD_PAGES, { connectionId: 0x200e }],
    [
      "1.1, not dedicated",
      { dedicatedInterrupt: false },
      v1_1,
      OLD_PAGES,
      { connectionId: 0x200e, interruptPageAddress: SEND_HALF },
    ],
    [
      "1.1, monitored",
      monitored,
      v1_1,
      OLD_PAGES,
      { connectionId: 0x200e, interruptPageAddress: SEND_HALF, monitor },
    ],
    ["2.4, dedicated", {}, v2_4, OLD_PAGES, { connectionId: 0x200e }],
    ["5.3", {}, v5_3, NEW_PAGES, { connectionId: 0x200e }],
    [
      "5.3, not dedicated: there is no page",
      { dedicatedInterrupt: false },
      v5_3,
      NEW_PAGES,
      { connectionId: 0x200e },
    ],
    ["5.3, monitored", monitored, v5_3, NEW_PAGES, { connectionId: 0x200e, monitor }],
    [
      "5.3, a monitor without pages",
      monitored,
      v5_3,
      { ...NEW_PAGES, monitorPage: 0 },
      { connectionId: 0x200e },
    ],
    [
      "5.3, a monitor id that cannot be",
      { ...monitored, monitorId: 128 },
      v5_3,
      NEW_PAGES,
      { connectionId: 0x200e },
    ],
    ["5.3, an id but no monitor", { monitorId: 69 }, v5_3, NEW_PAGES, { connectionId: 0x200e }],
  ])("%s", (_what, fields, version, pages, expected) => {
    expect(hostSignal({ ...offer, ...fields }, version, pages, false)).toEqual(expected);
  });

  test("in a hurry, a monitor is not used", () => {
    expect(hostSignal({ ...offer, ...monitored }, v5_3, NEW_PAGES, true)).toEqual({
      connectionId: 0x200e,
    });
  });
});
