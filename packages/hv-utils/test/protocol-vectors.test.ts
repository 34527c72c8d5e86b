import { describe, expect, test } from "vitest";
import * as ic from "../src/protocol/index.js";
import { structures, vector, vectorIds } from "./vectors.js";

const v = ic.icVersion;
const frameworks = [v(1), v(3)];
const none = { framework: 0, version: 0, status: 0, transactionId: 0 };
const agreed = (type: number, version: number): ic.IcMessage => ({
  framework: v(3),
  type,
  version,
  status: 0,
  transactionId: 0,
  flags: ic.IC_REQUEST_FLAGS,
  body: new Uint8Array(),
});
const offer = (messages: number[]): ic.IcMessage => ({
  ...none,
  type: ic.IcMessageType.negotiate,
  flags: ic.IC_REQUEST_FLAGS,
  body: ic.emitIcOffer({ frameworks, messages }),
});
const choice = (message: number): ic.IcMessage => ({
  ...none,
  type: ic.IcMessageType.negotiate,
  flags: ic.IC_ANSWER_FLAGS,
  body: ic.emitIcChoice({ framework: v(3), message }),
});
const heartbeat = (sequence: bigint): Uint8Array =>
  ic.Heartbeat.emit({ sequence, applicationState: 0 });
const shutdown = (flags: number): Uint8Array =>
  ic.Shutdown.emit({
    reason: ic.SHUTDOWN_REASON_PLANNED,
    timeoutSeconds: 0,
    flags,
    message: new Uint8Array(),
  });
const answered = (type: number, version: number): ic.IcMessage => ({
  ...agreed(type, version),
  flags: ic.IC_ANSWER_FLAGS,
});
/** A body of so many bytes, with these structures at its start. */
const vss = (lengthBytes: number, ...structures: readonly Uint8Array[]): Uint8Array => {
  const body = new Uint8Array(lengthBytes);
  body.set(Buffer.concat(structures));
  return body;
};
const ideController = "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f";
const parentTime = 133_485_408_000_000_000n;

/** Messages that are to be exactly the bytes of a vector. */
const exact: readonly (readonly [id: string, message: ic.IcMessage])[] = [
  ["V1", offer([v(3), v(4), v(5)])],
  ["V3", choice(v(4))],
  ["V4", offer([v(1), v(3), v(3, 1), v(3, 2)])],
  ["V5", choice(v(3, 2))],
  ["V7", { ...agreed(1, v(3)), body: heartbeat(0x2an) }],
  ["V8", { ...agreed(1, v(3)), flags: ic.IC_ANSWER_FLAGS, body: heartbeat(0x2bn) }],
  ["V9", { ...agreed(3, v(3, 2)), body: shutdown(ic.ShutdownFlag.force) }],
  ["V10", { ...agreed(3, v(3, 2)), flags: ic.IC_ANSWER_FLAGS }],
  ["V11", { ...agreed(3, v(3, 2)), body: shutdown(ic.ShutdownFlag.restart) }],
  [
    "V12",
    {
      ...agreed(4, v(4)),
      body: ic.TimeSync4.emit({
        parentTime,
        referenceTime: 600_000_000n,
        flags: ic.TimeSyncFlag.sync,
        leapIndicator: 0,
        stratum: 0,
      }),
    },
  ],
  [
    "V13",
    {
      ...agreed(4, v(3)),
      body: ic.TimeSync.emit({
        parentTime,
        childTime: 0n,
        roundTripTime: 0n,
        flags: ic.TimeSyncFlag.sample,
      }),
    },
  ],
  ["V27", offer([v(4), v(5), v(6), v(7)])],
  ["V28", choice(v(5))],
  ["V29", { ...agreed(5, v(5)), body: vss(32, ic.VssFlags.emit({ operation: 2, flags: 0 })) }],
  [
    "V30",
    {
      ...answered(5, v(5)),
      body: vss(32, ic.VssFlags.emit({ operation: 2, flags: ic.VSS_HOT_BACKUP_POSSIBLE })),
    },
  ],
  [
    "V31",
    {
      ...agreed(5, v(5)),
      body: vss(
        ic.VSS_FREEZE_BYTES,
        ic.VssFreeze.emit({ operation: 5, backupType: 0, flags: 0, lunCount: 1 }),
        ic.VssLun.emit({ busType: 1, controller: ideController, port: 0, target: 0, lun: 0 }),
      ),
    },
  ],
  ["V32", { ...answered(5, v(5)), body: ic.VssHeader.emit({ operation: 5 }) }],
  ["V33", { ...agreed(5, v(5)), body: ic.VssFlags.emit({ operation: 6, flags: 0 }) }],
  [
    "V34",
    {
      ...answered(5, v(5)),
      status: ic.IcStatus.fail,
      body: ic.VssHeader.emit({ operation: ic.VssOperation.freeze }),
    },
  ],
];

test.each(exact)("%s is emitted and parsed", (id, message) => {
  expect(ic.emitIcMessage(message)).toEqual(vector(id));
  expect(ic.parseIcMessage(vector(id))).toEqual(message);
});

test("each vector has a test", () => {
  const tested = [...exact.map(([id]) => id), "V2", "V6", "V41", "V42"];
  expect([...vectorIds].sort()).toEqual(tested.sort());
});

test("V2, the echo of a guest: what is behind its choice does not matter", () => {
  const message = ic.parseIcMessage(vector("V2")) as ic.IcMessage;
  expect(message.flags).toBe(ic.IC_ANSWER_FLAGS);
  expect(ic.parseIcChoice(message.body)).toEqual({ framework: v(3), message: v(4) });
});

test("V6, a guest with which nothing is in common: the counts say it", () => {
  const message = ic.parseIcMessage(vector("V6")) as ic.IcMessage;
  expect(ic.parseIcChoice(message.body)).toBe("none");
  expect(ic.parseIcChoice(ic.emitIcChoice(undefined))).toBe("none");
});

test("V41, what FreeBSD's driver of backups tells its daemon", () => {
  const message = {
    ...{ operation: 2, status: 0, messageId: 0x1122_3344_5566_7788n },
    reserved: new Uint8Array(48),
  };
  expect(ic.VssDeviceMessage.emit(message)).toEqual(vector("V41"));
  expect(ic.VssDeviceMessage.parse(vector("V41"))).toEqual(message);
});

test("V42, how a daemon of backups registers with Linux's driver, and the answer", () => {
  const message = { operation: ic.LINUX_VSS_REGISTER, flags: 0 };
  const bytes = vector("V42");
  expect(ic.LinuxVssMessage.emit(message)).toEqual(bytes.subarray(0, ic.LinuxVssMessage.SIZE));
  expect(ic.LinuxVssMessage.parse(bytes)).toEqual(message);
  expect(new DataView(bytes.buffer).getUint32(12, true)).toBe(ic.LINUX_VSS_REGISTER);
});

test("the instant of V12 is the start of 2024", () => {
  const milliseconds = Number((parentTime - ic.NT_TO_UNIX_100NS) / 10_000n);
  expect(new Date(milliseconds).toISOString()).toBe("2024-01-01T00:00:00.000Z");
});

describe("layouts", () => {
  const records = [
    [
      "Negotiate",
      ic.IcVersionCounts,
      { frameworks: "framework_version_count", messages: "message_version_count" },
    ],
    [
      "Heartbeat",
      ic.Heartbeat,
      { sequence: "sequence_number", applicationState: "application_state" },
    ],
    [
      "Shutdown",
      ic.Shutdown,
      { reason: "reason_code", timeoutSeconds: "timeout_secs", flags: "flags", message: "message" },
    ],
    [
      "Timesync",
      ic.TimeSync,
      {
        parentTime: "parent_time",
        childTime: "child_time",
        roundTripTime: "round_trip_time",
        flags: "flags",
      },
    ],
    [
      "TimesyncV4",
      ic.TimeSync4,
      {
        parentTime: "parent_time",
        referenceTime: "vm_reference_time",
        flags: "flags",
        leapIndicator: "leap_indicator",
        stratum: "stratum",
      },
    ],
    [
      "vmbus_icmsg_hdr",
      ic.IcHeader,
      {
        framework: "ic_fwver",
        type: "ic_type",
        version: "ic_msgver",
        bodyBytes: "ic_dsize",
        status: "ic_status",
        transactionId: "ic_xactid",
        flags: "ic_flags",
      },
    ],
  ] as const;

  test.each(records)("%s is that of the reference", (name, record, names) => {
    const structure = structures[name]!;
    const fields: Readonly<Record<string, { offset: number; width: number }>> = record.fields;
    expect(record.SIZE).toBe(structure.size);
    for (const [ours, theirs] of Object.entries(names))
      expect([fields[ours]!.offset, fields[ours]!.width], ours).toEqual(structure.fields[theirs]);
  });
});
