import { beforeEach, describe, expect, test } from "vitest";
import {
  ModifyChannel,
  NtStatus,
  type OpenChannel,
  PAGE_SIZE,
  ProtocolVersion,
  VP_INTERRUPTS_DISABLED,
  emitGpadl,
} from "@hyperv-is/vmbus-core/protocol";
import { BUFFER, Driver, NEW, RELID, RING, disk, gpadlMessages, messages } from "./bus-driver.js";

const modifyRefused = ["! modify-channel", "MODIFYCHANNEL_RESPONSE"];

describe("opening", () => {
  let driver: Driver;
  beforeEach(() => {
    driver = new Driver();
    driver.connect();
    driver.gpadl(RING, 5);
  });

  const openFailed = "OPENCHANNEL_RESULT failed";
  test.each<[string, Partial<OpenChannel>, string[]]>([
    ["another GPADL", { ringGpadlId: NEW }, ["! open-channel-gpadl", openFailed]],
    [
      "one page for the first ring",
      { downstreamPageOffset: 1 },
      ["! open-channel-page-offset", openFailed],
    ],
    [
      "one page for the second ring",
      { downstreamPageOffset: 4 },
      ["! open-channel-page-offset", openFailed],
    ],
    ["a split at 0", { downstreamPageOffset: 0 }, ["! open-channel-page-offset", openFailed]],
    [
      "a split behind the end",
      { downstreamPageOffset: 0xffff_ffff },
      ["! open-channel-page-offset", openFailed],
    ],
    ["a processor that is not there", { targetVp: 2 }, ["! open-channel-target-vp", openFailed]],
    ["uneven rings", { downstreamPageOffset: 3 }, ["ask open"]],
    ["no interrupts", { targetVp: VP_INTERRUPTS_DISABLED }, ["ask open"]],
  ])("%s", (_, fields, effects) => {
    expect(driver.message(driver.open(fields))).toEqual(effects);
  });

  test.each([
    [
      "two ranges",
      [
        { byteCount: 8192, byteOffset: 0, pfns: [20, 21] },
        { byteCount: 8192, byteOffset: 0, pfns: [22, 23] },
      ],
    ],
    ["an offset", [{ byteCount: 4 * PAGE_SIZE, byteOffset: 8, pfns: [20, 21, 22, 23, 24] }]],
    ["half a page", [{ byteCount: 4 * PAGE_SIZE - 8, byteOffset: 0, pfns: [20, 21, 22, 23] }]],
  ])("rings with %s", (_, ranges) => {
    for (const bytes of emitGpadl(RELID, NEW, ranges)) driver.message(bytes);
    driver.reply({ kind: "gpadl-created", key: 1, gpadlId: NEW, status: 0 });
    const effects = driver.message(driver.open({ ringGpadlId: NEW }));
    expect(effects).toEqual(["! open-channel-gpadl", openFailed]);
  });

  test("a GPADL that no worker has yet is none", () => {
    for (const bytes of gpadlMessages(NEW)) driver.message(bytes);
    const effects = driver.message(driver.open({ ringGpadlId: NEW }));
    expect(effects).toEqual(["! open-channel-gpadl", openFailed]);
  });

  test("a worker that refuses is passed on, and the channel can be opened again", () => {
    driver.message(driver.open());
    const status = NtStatus.unsuccessful;
    expect(driver.reply({ kind: "opened", key: 1, status })).toEqual([openFailed]);
    expect(driver.message(driver.open())).toEqual(["ask open"]);
    expect(driver.reply({ kind: "opened", key: 1, status: 0 })).toEqual(["OPENCHANNEL_RESULT"]);
  });

  test("a channel closed and opened at once is opened when the worker has closed it", () => {
    driver.bus.message({ connectionId: 1, payload: driver.open() });
    driver.answer();
    expect(driver.message(messages["close"]!)).toEqual(["ask close"]);
    expect(driver.message(driver.open({ targetVp: 0 }))).toEqual([]);
    expect(driver.reply({ kind: "closed", key: 1 })).toEqual(["ask open"]);
    expect(driver.reply({ kind: "opened", key: 1, status: 0 })).toEqual(["OPENCHANNEL_RESULT"]);
    expect(driver.bus.channels[0]).toMatchObject({ state: "open", targetVp: 0 });
  });
});

describe("rescind", () => {
  test("ends what the guest waits for: creations fail, teardowns are done, and openings say nothing", () => {
    const driver = new Driver();
    driver.connect();
    driver.gpadl(RING);
    driver.gpadl(BUFFER);
    driver.message(messages["new gpadl"]!);
    driver.message(messages["teardown buffer"]!);
    driver.message(driver.open());
    driver.bus.rescind(disk.instanceId);
    expect(driver.take()).toEqual(["ask revoke"]);
    expect(driver.reply({ kind: "opened", key: 1, status: 0 })).toEqual([]);
    expect(driver.reply({ kind: "revoked", key: 1 })).toEqual([
      "GPADL_TORNDOWN",
      "GPADL_CREATED failed",
      "RESCIND_CHANNELOFFER",
    ]);
    expect(driver.message(messages["teardown ring"]!)).toEqual(["GPADL_TORNDOWN"]);
  });

  test("of a device that was never offered to this guest says nothing", () => {
    const driver = new Driver();
    driver.bus.offer(disk);
    expect(driver.bus.rescind(disk.instanceId)).toBe(true);
    expect(driver.take()).toEqual([]);
    expect(driver.bus.channels).toEqual([]);
  });
});

describe("moving interrupts", () => {
  const modify = (targetVp: number): Uint8Array => ModifyChannel.emit({ relid: RELID, targetVp });

  function opened(version: ProtocolVersion, fields: Partial<OpenChannel> = {}): Driver {
    const driver = new Driver();
    driver.connect(version);
    driver.gpadl(RING);
    driver.bus.message({ connectionId: 1, payload: driver.open(fields) });
    driver.answer();
    return driver;
  }

  test("5.3: answered once the worker has done it; a second one meanwhile is dropped", () => {
    const driver = opened(ProtocolVersion.v5_3);
    expect(driver.message(modify(0))).toEqual(["ask modify"]);
    expect(driver.message(modify(1))).toEqual(["! modify-channel-pending"]);
    const done = driver.reply({ kind: "modified", key: 1, status: 0 });
    expect(done).toEqual(["MODIFYCHANNEL_RESPONSE"]);
    expect(driver.message(modify(1))).toEqual(["ask modify"]);
  });

  test("4.1 to 5.2: never answered; the latest wish follows", () => {
    const driver = opened(ProtocolVersion.v5_2);
    expect(driver.message(modify(0))).toEqual(["ask modify"]);
    expect(driver.message(modify(1))).toEqual([]);
    expect(driver.message(modify(0))).toEqual([]);
    expect(driver.reply({ kind: "modified", key: 1, status: 0 })).toEqual(["ask modify"]);
    expect(driver.reply({ kind: "modified", key: 1, status: 0 })).toEqual([]);
  });

  test("4.0 has no such message", () => {
    const driver = opened(ProtocolVersion.v4_0);
    expect(driver.message(modify(0))).toEqual(["! message-not-negotiated"]);
  });

  test.each([2, VP_INTERRUPTS_DISABLED])("processor %i is refused", (vp) => {
    const driver = opened(ProtocolVersion.v5_3);
    expect(driver.message(modify(vp))).toEqual(modifyRefused);
  });

  test("a channel without interrupts has none to move", () => {
    const driver = opened(ProtocolVersion.v5_3, { targetVp: VP_INTERRUPTS_DISABLED });
    expect(driver.message(modify(1))).toEqual(modifyRefused);
  });

  test("an answer that comes after the close is not passed on", () => {
    const driver = opened(ProtocolVersion.v5_3);
    driver.message(modify(0));
    driver.message(messages["close"]!);
    expect(driver.reply({ kind: "modified", key: 1, status: 0 })).toEqual([]);
  });
});
