import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  DeviceClass,
  MessageHeader,
  MessageType,
  OfferChannel,
  PacketType,
  formatVersion,
  protocolVersions,
} from "@hyperv-is/vmbus-core/protocol";
import { IcHeader } from "@hyperv-is/hv-utils/protocol";
import { RndisStatus, RndisType, get32 } from "@hyperv-is/hv-netvsc/protocol";
import type { PacketRecord, Trace, TraceRecord } from "@hyperv-is/hyperv-host/trace";
import { isRead } from "./replay/replay-disks.js";
import { liveSession } from "./replay/live-session.js";
import type { PagePlacement } from "./replay/replay-memory.js";
import { traceFixtures } from "./replay/trace-fixtures.js";
import { ReplayMismatch, TraceReplay, type RecordedHost } from "./replay/trace-replay.js";

const fixtures = traceFixtures();
const placements: readonly PagePlacement[] = ["kept", "relocated"];

describe.each(fixtures)("the trace $name", ({ provenance, trace }) => {
  test.each(placements)("gets the same answers, pages %s", (placement) => {
    expect(trace.damage).toBeUndefined();
    const result = new TraceReplay(trace, provenance.host, placement).run();
    // Each rule that a foreign guest breaks is explained in the provenance.
    const explained = Object.entries(provenance.violations).map(
      ([rule, { count }]) => [rule, count] as const,
    );
    expect(result.violations).toEqual(Object.fromEntries(explained));
    // All of it was compared.
    const { records } = trace;
    expect(result.messages).toBe(
      records.filter((record) => record.kind === "host-message" && !record.lost).length,
    );
    expect(result.packets).toBe(
      records.filter((record) => record.kind === "packet" && record.toGuest).length,
    );
  });
});

describe.each(protocolVersions)("a session in protocol $version", ({ version }) => {
  const { trace, host } = liveSession(version);

  test.each(placements)("is replayed, pages %s", (placement) => {
    const result = new TraceReplay(trace, host, placement).run();
    expect(result.violations).toEqual({});
    expect(result.packets).toBeGreaterThan(40);
    expect(result.dataBytes).toBeGreaterThan(100_000);
  });

  test("is not the same to a host of an older version", () => {
    const older =
      protocolVersions[protocolVersions.findIndex((row) => row.version === version) + 1];
    if (older === undefined) return;
    const ceiling = { ...host, busCeiling: formatVersion(older.version) };
    expect(() => new TraceReplay(trace, ceiling, "kept").run()).toThrow(ReplayMismatch);
  });
});

describe("an answer that is another than the recorded one is found", () => {
  const { trace, host } = liveSession(protocolVersions[1]!.version);
  const replay = (changed: Trace, on: RecordedHost = host): void => {
    new TraceReplay(changed, on, "relocated").run();
  };

  /** Records of the host's answers, with their bytes from the first on that the host has to find. */
  const answers = trace.records.flatMap((record, index) => {
    if (record.kind === "packet" && record.toGuest)
      return [{ index, bytes: record.bytes, first: 0 }];
    if (record.kind !== "host-message") return [];
    // Which devices there are the replay takes from the offers, but not how they are numbered.
    const isOffer = MessageHeader.parse(record.payload)?.type === MessageType.offerChannel;
    const first = isOffer ? OfferChannel.fields.subChannelIndex.offset : 0;
    return [{ index, bytes: record.payload, first }];
  });

  function withRecord(index: number, change: (record: TraceRecord) => TraceRecord): Trace {
    const records = trace.records.map((record, at) => (at === index ? change(record) : record));
    return { ...trace, records };
  }

  test("any byte of any message or packet", () => {
    replay(trace);
    fc.assert(
      fc.property(
        fc.nat({ max: answers.length - 1 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (which, where, mask) => {
          const { index, bytes, first } = answers[which]!;
          const changed = bytes.slice();
          changed[first + (where % (bytes.byteLength - first))]! ^= mask;
          const mutant = withRecord(index, (record) =>
            record.kind === "packet"
              ? { ...record, bytes: changed }
              : ({ ...record, payload: changed } as TraceRecord),
          );
          expect(() => replay(mutant)).toThrow(ReplayMismatch);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("one that is missing, or that nobody gave", () => {
    for (const { index } of answers.filter((_, at) => at % 7 === 0)) {
      const { records } = trace;
      const less = { ...trace, records: records.toSpliced(index, 1) };
      expect(() => replay(less)).toThrow(ReplayMismatch);
      const more = { ...trace, records: records.toSpliced(index, 0, records[index]!) };
      expect(() => replay(more)).toThrow(ReplayMismatch);
    }
  });

  test("data that a disk lost", () => {
    // Of a WRITE that a READ follows, and of what is no READ: what a first READ brings is what the disk gets.
    const requests = new Map<string, (typeof trace.records)[number] & { kind: "packet" }>();
    const withData: number[] = [];
    for (const [index, record] of trace.records.entries()) {
      if (record.kind !== "packet") continue;
      const key = `${record.channel}:${record.transactionId}`;
      if (!record.toGuest) requests.set(key, record);
      if (record.data !== undefined && (!record.toGuest || !isRead(requests.get(key))))
        withData.push(index);
    }
    expect(withData.length).toBeGreaterThan(4);
    for (const index of withData) {
      const mutant = withRecord(index, (record) => {
        if (record.kind !== "packet") return record;
        const bytes = record.data!.bytes.slice();
        bytes[bytes.byteLength >> 1]! ^= 0x40;
        return { ...record, data: { ...record.data!, bytes } };
      });
      expect(() => replay(mutant)).toThrow(ReplayMismatch);
    }
  });

  test("a host that is another: its disk is larger, its limit lower", () => {
    const [controller, ...others] = host.controllers;
    const [disk, other] = controller!.disks;
    const larger = { ...other!, sizeBytes: other!.sizeBytes * 2 };
    const change = (changed: object): RecordedHost => ({
      ...host,
      controllers: [{ ...controller!, ...changed }, ...others],
    });
    expect(() => replay(trace, change({ disks: [disk!, larger] }))).toThrow(/READ CAPACITY/);
    expect(() => replay(trace, change({ maxTransferBytes: 65_536 }))).toThrow(/QUERY_PROPERTIES/);
  });

  test("what is said of a frame, or in answer to an RNDIS message", () => {
    const network = fixtures.find(({ name }) => name === "linux-network")!;
    const { records } = network.trace;
    const told = records.flatMap((record, index) =>
      record.kind === "packet" && record.type === PacketType.transferPages
        ? [{ record, index }]
        : [],
    );
    const isFrame = (bytes: Uint8Array): boolean => get32(bytes, 0) === RndisType.packet;
    const frame = told.find(({ record }) => isFrame(record.data!.bytes))!;
    const answer = told.findLast(({ record }) => !isFrame(record.data!.bytes))!;
    // A status, and the value of the first information of a frame, which is on its checksums.
    for (const [{ record, index }, at] of [
      [answer, 12],
      [frame, 44 + 12],
    ] as const) {
      const bytes = record.data!.bytes.slice();
      bytes[at]! ^= 1;
      const mutant = records.with(index, { ...record, data: { ...record.data!, bytes } });
      const mutated = { ...network.trace, records: mutant };
      expect(() => replay(mutated, network.provenance.host)).toThrow(/in byte \d+ of the data/);
    }
  });

  test("what is said of a link, and when", () => {
    const { trace: session, provenance } = fixtures.find(({ name }) => name === "freebsd-network")!;
    const { records } = session;
    const says = (status: number): number =>
      records.findIndex(
        (record) =>
          record.kind === "packet" &&
          record.type === PacketType.transferPages &&
          get32(record.data!.bytes, 0) === RndisType.indicateStatus &&
          get32(record.data!.bytes, 8) === status,
      );
    const replayed = (changed: readonly TraceRecord[]) => (): void =>
      replay({ ...session, records: changed }, provenance.host);
    const [down, up] = [says(RndisStatus.mediaDisconnect), says(RndisStatus.mediaConnect)];
    expect(down).toBeGreaterThan(0);
    expect(up).toBeGreaterThan(down);
    expect(replayed(records.toSpliced(down, 1))).toThrow(ReplayMismatch);
    // It comes back 5 s after it went at the soonest.
    const { time } = records[up - 1]!;
    expect(replayed(records.with(up, { ...records[up]!, time }))).toThrow(/sends no such packet/);
  });

  test("what is said to a component, and when", () => {
    const { trace: session, provenance } = fixtures.find(({ name }) => name === "linux-services")!;
    const { records } = session;
    const classes = new Map(
      records.flatMap((record) =>
        record.kind === "channel-opened" ? [[record.channel, record.classId] as const] : [],
      ),
    );
    const replayed = (changed: readonly TraceRecord[]) => (): void =>
      replay({ ...session, records: changed }, provenance.host);
    const { heartbeat, kvp, shutdown, timeSync, vss } = DeviceClass;
    for (const { name, classId } of [heartbeat, kvp, shutdown, timeSync, vss]) {
      const index = records.findIndex(
        (record) =>
          record.kind === "packet" && record.toGuest && classes.get(record.channel) === classId,
      );
      const record = records[index] as PacketRecord;
      const bytes = record.bytes.slice();
      // The status of its message.
      bytes[record.headerBytes + IcHeader.fields.status.offset]! ^= 1;
      expect(replayed(records.with(index, { ...record, bytes })), name).toThrow(ReplayMismatch);
      expect(replayed(records.toSpliced(index, 1)), name).toThrow(ReplayMismatch);
    }
  });
});
