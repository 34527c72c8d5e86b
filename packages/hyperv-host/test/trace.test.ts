import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  ringCore,
  type Channel,
} from "@hyperv-is/vmbus-core";
import {
  CloseChannel,
  ModifyChannel,
  Msr,
  PacketType,
  ProtocolVersion,
  Unload,
} from "@hyperv-is/vmbus-core/protocol";
import {
  MemorySink,
  TraceDecoder,
  TraceError,
  TraceRecorder,
  parseTraceChannels,
  readTrace,
  type PacketRecord,
  type Trace,
  type TraceRecorderOptions,
} from "@hyperv-is/hyperv-host/trace";
import type { HostService } from "../src/index.js";
import { EchoChannel, EchoService } from "./echo-service.js";
import { Machine, disk, keyValue, otherDisk } from "./scenario-machine.js";
import { memoryAtOffset } from "./scripted-guest.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

/** Enough for the rings to wrap. */
const ROUNDS = 8;

/** Opens two disks, sends packets on each by turns, closes one of them and leaves. @returns The trace. */
function session(options: Partial<TraceRecorderOptions> = {}): Uint8Array {
  const sink = new MemorySink();
  const timers = new VirtualTimers();
  timers.advance(1000);
  const trace = new TraceRecorder({ sink, clock: timers, ...options });
  const machine = new Machine({ memory: memoryAtOffset(), timers, trace }, [
    disk,
    otherDisk,
    keyValue,
  ]);
  machine.connect(ProtocolVersion.v5_3);
  machine.requestOffers();
  // The key-value pairs are relid 1.
  const channels = [machine.openChannel(2), machine.openChannel(3)];
  for (let round = 0; round < ROUNDS; round++)
    for (const channel of channels) {
      timers.advance(0.25);
      // Lengths that are no multiples of 8.
      expect(channel.echoes(1, 1501 + round)).toBe(true);
    }
  machine.send(CloseChannel.emit({ relid: 2 }));
  machine.send(Unload.emit({}));
  expect(machine.brokenRules).toEqual([]);
  trace.flush();
  return sink.bytes;
}

const whole = session();

function packetsOf(trace: Trace): PacketRecord[] {
  return trace.records.filter((record) => record.kind === "packet");
}

/** Relid and name of everything but packets. */
function namesOf(trace: Trace): string[] {
  const decoder = new TraceDecoder();
  return trace.records.flatMap((record) => {
    const { name, relid } = decoder.decode(record);
    return record.kind === "packet" ? [] : [relid === undefined ? name : `${relid} ${name}`];
  });
}

describe("a recorded session", () => {
  const trace = readTrace(whole);

  test("has every message in its order", () => {
    expect(trace.damage).toBeUndefined();
    expect(trace.header).toMatchObject({ vps: 1, memoryBytes: 1100n * 4096n });
    const opening = (relid: number): string[] =>
      ["GPADL_HEADER", "GPADL_CREATED", "OPENCHANNEL", "channel opened", "OPENCHANNEL_RESULT"].map(
        (name) => `${relid} ${name}`,
      );
    expect(namesOf(trace)).toEqual([
      ...["GUEST_OS_ID", "HYPERCALL", "SIMP", "SIEFP", "SINT2", "SCONTROL"],
      ...["INITIATE_CONTACT", "VERSION_RESPONSE", "REQUESTOFFERS"],
      ...["1 OFFERCHANNEL", "2 OFFERCHANNEL", "3 OFFERCHANNEL", "ALLOFFERS_DELIVERED"],
      ...opening(2),
      ...opening(3),
      ...["2 CLOSECHANNEL", "2 channel closed", "UNLOAD", "3 channel closed", "UNLOAD_RESPONSE"],
    ]);
  });

  test("knows when things happened, in units of 100 ns", () => {
    const times = trace.records.map(({ time }) => time);
    expect([times[0], times.at(-1)]).toEqual([0, 2 * ROUNDS * 2500]);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
  });

  test("has packets as both sides saw them", () => {
    const packets = packetsOf(trace);
    expect(packets).toHaveLength(4 * ROUNDS);
    for (const [index, { toGuest, type, transactionId, bytes, vp }] of packets.entries()) {
      const round = index >> 2;
      const kind = [toGuest, type, transactionId, vp];
      const { inBand, completion } = PacketType;
      const id = BigInt(round + 1);
      expect(kind).toEqual(index % 2 === 0 ? [false, inBand, id, 0] : [true, completion, id, 0]);
      const payload = bytes.subarray(16, 16 + 1501 + round);
      // A round of a channel is its first, so each is filled from 0.
      expect(
        Buffer.compare(
          payload,
          Uint8Array.from(payload, (_, at) => at),
        ),
      ).toBe(0);
    }
  });
});

test("packets have the processor that gets the channel's interrupts, all processors their registers", () => {
  const sink = new MemorySink();
  const timers = new VirtualTimers();
  const trace = new TraceRecorder({ sink, clock: timers });
  const machine = new Machine({ memory: memoryAtOffset(), timers, trace, vps: 2 });
  const channel = machine.openFirst(ProtocolVersion.v5_3);
  expect(channel.echoes(1)).toBe(true);
  machine.send(ModifyChannel.emit({ relid: 1, targetVp: 1 }));
  expect(channel.echoes(1)).toBe(true);
  trace.flush();
  const { records } = readTrace(sink.bytes);
  const packets = records.filter((record) => record.kind === "packet");
  expect(packets.map(({ vp }) => vp)).toEqual([0, 0, 1, 1]);
  const registers = records.filter((record) => record.kind === "register");
  expect(
    registers.filter(({ msr }) => msr === Msr.siefp).map(({ vp, value }) => [vp, value]),
  ).toEqual([
    [0, BigInt(machine.flagsPage(0)) | 1n],
    [1, BigInt(machine.flagsPage(1)) | 1n],
  ]);
  // Nothing changed after that.
  expect(registers).toHaveLength(2 + 2 * 4);
});

test("the sink is asked for a flush once there is something to flush", () => {
  const sink = new MemorySink();
  let asked = 0;
  const trace = new TraceRecorder({
    sink,
    clock: new VirtualTimers(),
    filling: () => {
      asked++;
    },
  });
  const machine = new Machine({ memory: memoryAtOffset(), trace });
  expect([asked, sink.bytes.byteLength]).toEqual([0, 32]);
  machine.connect();
  machine.requestOffers();
  expect([asked, sink.bytes.byteLength]).toEqual([1, 32]);
  trace.flush();
  machine.send(Unload.emit({}));
  expect(asked).toBe(2);
  expect(sink.bytes.byteLength).toBeGreaterThan(300);
});

describe("channels to trace", () => {
  test.each([
    ["all", undefined, [2, 3]],
    ["by relid", ["2"], [2]],
    ["by class", ["scsi"], [2, 3]],
    ["by instance", [otherDisk.instanceId], [3]],
    ["another class", ["kvp", "network"], []],
    ["none", [], []],
  ])("%s", (_, channels, relids) => {
    const trace = readTrace(session(channels === undefined ? {} : { channels }));
    const opened = trace.records.filter((record) => record.kind === "channel-opened");
    expect(opened.map(({ relid }) => relid)).toEqual(relids);
    expect(packetsOf(trace)).toHaveLength(2 * ROUNDS * relids.length);
    // Messages are there in any case.
    expect(namesOf(trace)).toContain("2 OPENCHANNEL_RESULT");
  });

  test("are parsed as a user writes them", () => {
    expect(parseTraceChannels("none")).toEqual([]);
    expect(parseTraceChannels(`scsi,014,{${disk.instanceId.toUpperCase()}}`)).toEqual([
      ...["scsi", "14", disk.instanceId],
    ]);
    expect(() => parseTraceChannels("scsi,disks")).toThrow(
      expect.objectContaining({ code: "ERR_TRACE_CHANNELS" }),
    );
  });
});

test("what is put whole is recorded, where memory has a ring core, too", () => {
  const wasm = new WebAssembly.Memory({ initial: 68, maximum: 68, shared: true });
  const memory = new GuestMemory(wasm.buffer, 0, wasm.buffer.byteLength, ringCore(wasm));
  expect(memory.ringCore).toBeDefined();
  class Answerer extends EchoChannel {
    override packet({ incoming, outgoing }: Channel): void {
      const { idLow, idHigh } = incoming;
      outgoing.putPacket(PacketType.completion, 0, idLow, idHigh, 0, 64);
    }
  }
  const service: HostService = {
    open: (opening, context) => new Answerer(new EchoService(), opening, context),
  };
  const sink = new MemorySink();
  const timers = new VirtualTimers();
  const trace = new TraceRecorder({ sink, clock: timers });
  const machine = new Machine({ memory, timers, trace });
  const { classId, instanceId } = disk;
  machine.partition.workers[0]!.serve({ classId, instanceId }, service);
  machine.openFirst().send(new Uint8Array(100));
  machine.partition.run();
  trace.flush();
  expect(packetsOf(readTrace(sink.bytes)).map(({ toGuest }) => toGuest)).toEqual([false, true]);
});

describe("what is not traced costs nothing per packet", () => {
  class Looker implements HostService {
    readonly rings: unknown[] = [];
    open: HostService["open"] = (opening, context) => {
      const { rings } = this;
      return new (class extends EchoChannel {
        override opened(channel: Channel): void {
          super.opened(channel);
          rings.push(channel.incoming.constructor, channel.outgoing.constructor);
        }
      })(new EchoService(), opening, context);
    };
  }

  function ringsOf(options: Partial<TraceRecorderOptions> | undefined): unknown[] {
    const looker = new Looker();
    const timers = new VirtualTimers();
    const trace =
      options && new TraceRecorder({ sink: new MemorySink(), clock: timers, ...options });
    const machine = new Machine({ timers, ...(trace && { trace }) });
    const { classId, instanceId } = disk;
    machine.partition.workers[0]!.serve({ classId, instanceId }, looker);
    machine.openFirst();
    return looker.rings;
  }

  test("off, or for another channel: the rings are the plain ones", () => {
    expect(ringsOf(undefined)).toEqual([IncomingRing, OutgoingRing]);
    expect(ringsOf({ channels: ["kvp"] })).toEqual([IncomingRing, OutgoingRing]);
    expect(ringsOf({})).not.toContain(IncomingRing);
  });
});

describe("a file that is not whole", () => {
  const { records } = readTrace(whole);

  test("is read up to the record where bytes are missing, and says where", () => {
    fc.assert(
      fc.property(fc.integer({ min: 32, max: whole.byteLength }), (length) => {
        const read = readTrace(whole.subarray(0, length));
        const starts = records.map(({ offset }) => offset);
        const ends = [...starts.slice(1), whole.byteLength];
        const complete = starts.filter((_, index) => ends[index]! <= length);
        expect(read.records.map(({ offset }) => offset)).toEqual(complete);
        const next = records[complete.length]?.offset ?? whole.byteLength;
        if (length === next) expect(read.damage).toBeUndefined();
        else expect(read.damage).toMatchObject({ kind: "truncated", offset: next });
      }),
    );
  });

  test("that has a wrong byte is read or refused, and decoded in any case", () => {
    fc.assert(
      fc.property(
        fc.nat({ max: whole.byteLength - 1 }),
        fc.integer({ min: 1, max: 255 }),
        (at, change) => {
          const bytes = whole.slice();
          bytes[at]! ^= change;
          let read: Trace;
          try {
            read = readTrace(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(TraceError);
            expect(at).toBeLessThan(16);
            return;
          }
          const decoder = new TraceDecoder();
          for (const record of read.records) decoder.decode(record);
        },
      ),
    );
  });

  test("a packet whose descriptor contradicts its record is corruption", () => {
    const bytes = whole.slice();
    const packet = packetsOf(readTrace(whole))[3]!;
    bytes[packet.offset + 16 + 8 + 4]! ^= 1;
    expect(readTrace(bytes).damage).toMatchObject({ kind: "corrupt", offset: packet.offset });
  });

  test("what is no trace, or a later one, is refused", () => {
    const refused = (bytes: Uint8Array, code: string): void =>
      expect(() => readTrace(bytes)).toThrow(expect.objectContaining({ code }));
    refused(new Uint8Array(0), "ERR_TRACE_FORMAT");
    refused(new TextEncoder().encode("root:x:0:0:root:/root:/bin/sh"), "ERR_TRACE_FORMAT");
    refused(whole.subarray(0, 20), "ERR_TRACE_FORMAT");
    const later = whole.slice();
    later[8] = 2;
    refused(later, "ERR_TRACE_VERSION");
  });

  test("records and header bytes of a later minor version are skipped", () => {
    const extra = Uint8Array.of(24, 0, 0, 0, 200, 0, 0, 0, ...new Array<number>(16).fill(7));
    const bytes = new Uint8Array(whole.byteLength + 8 + extra.byteLength);
    bytes.set(whole.subarray(0, 32));
    bytes[12] = 40;
    bytes.set(extra, 40);
    bytes.set(whole.subarray(32), 40 + extra.byteLength);
    const read = readTrace(bytes);
    expect(read.damage).toBeUndefined();
    expect(read.records).toHaveLength(records.length);
  });
});

test("records of several threads are merged by time", () => {
  const sink = new MemorySink();
  const timers = new VirtualTimers();
  const memory = memoryAtOffset(16);
  const threads = [0, 1].map(() => new TraceRecorder({ sink, clock: timers, originMs: 0 }));
  threads[0]!.start(memory, 2);
  const opening = (key: number): Parameters<TraceRecorder["channel"]>[0] => ({
    ...{ key, relid: key, ...disk, subChannelIndex: 0, version: 0, features: 0 },
    ...{ ringGpadlId: 1, ringPages: [], downstreamPageOffset: 2, interrupt: undefined },
    userData: new Uint8Array(0),
  });
  for (let key = 1; key <= 10; key++) {
    timers.advance(1);
    threads[key % 2]!.channel(opening(key), memory, () => undefined)!.opened();
  }
  threads[1]!.flush();
  threads[0]!.flush();
  const { records } = readTrace(sink.bytes);
  expect(records.map((record) => "channel" in record && record.channel)).toEqual([
    ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  ]);
});
