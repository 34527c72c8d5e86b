import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as protocol from "../src/protocol/index.js";

const { Feature, ProtocolVersion } = protocol;

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
const gpa = fc.oneof(u32, fc.maxSafeNat());
const bool = fc.boolean();
const blob = (length: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length });
const guid = blob(16).map((bytes) => protocol.readGuid(bytes));
const relid = { relid: u32 };
const gpadl = { relid: u32, gpadlId: u32 };
const wholeWords = (words: number): fc.Arbitrary<Uint8Array> =>
  fc.integer({ min: 0, max: words }).chain((count) => blob(count * 8));

interface Face {
  readonly name: string;
  readonly arbitrary: fc.Arbitrary<unknown>;
  /** Least bytes that can be parsed. */
  readonly size: number;
  readonly parse: (bytes: Uint8Array) => unknown;
  readonly emit: (record: unknown) => Uint8Array;
}

/** A structure that needs no context. */
function face<T>(
  name: string,
  codec: {
    readonly SIZE: number;
    parse(bytes: Uint8Array): T | undefined;
    emit(record: T): Uint8Array;
  },
  arbitrary: fc.Arbitrary<T>,
): Face {
  return {
    name,
    arbitrary,
    size: codec.SIZE,
    parse: (bytes) => codec.parse(bytes),
    emit: (record) => codec.emit(record as T),
  };
}

/** A structure whose form depends on `context`: a version or features. */
function faceIn<T>(
  name: string,
  codec: {
    parse(bytes: Uint8Array, context: number): T | undefined;
    emit(record: T, context: number): Uint8Array;
  },
  context: number,
  size: number,
  arbitrary: fc.Arbitrary<T>,
): Face {
  return {
    name: `${name} in ${context}`,
    arbitrary,
    size,
    parse: (bytes) => codec.parse(bytes, context),
    emit: (record) => codec.emit(record as T, context),
  };
}

function contact(version: number, fields: object): Face {
  const absent = {
    interruptPageGpa: fc.constant(0),
    sint: fc.constant(2),
    vtl: fc.constant(0),
    features: fc.constant(0),
    clientId: fc.constant(protocol.NIL_GUID),
  };
  const arbitrary = fc.record({
    version: fc.constant(version),
    targetVp: u32,
    parentToChildMonitorGpa: gpa,
    childToParentMonitorGpa: gpa,
    ...absent,
    ...fields,
  });
  return face(`InitiateContact of ${version}`, protocol.InitiateContact, arbitrary);
}

function response(version: number, fields: object): Face {
  const arbitrary = fc.record({
    supported: fc.constant(true),
    connectionState: u8,
    selectedVersionOrConnectionId: u32,
    features: fc.constant(0),
    parentToChildMonitorGpa: fc.constant(0),
    childToParentMonitorGpa: fc.constant(0),
    ...fields,
  });
  return faceIn("VersionResponse", protocol.VersionResponse, version, 16, arbitrary);
}

function open(features: number, size: number, fields: object): Face {
  const arbitrary = fc.record({
    relid: u32,
    openId: u32,
    ringGpadlId: u32,
    targetVp: u32,
    downstreamPageOffset: u32,
    userData: blob(120),
    redirectInterrupt: fc.constant(false),
    ...fields,
  });
  return faceIn("OpenChannel", protocol.OpenChannel, features, size, arbitrary);
}

const without = (bit: number): fc.Arbitrary<number> => u32.map((value) => (value & ~bit) >>> 0);
const withBit = (bit: number): fc.Arbitrary<number> => u32.map((value) => (value | bit) >>> 0);
const signal = fc.record({ connectionId: u32, eventFlag: u16 });
const tlConnect = { endpointId: guid, serviceId: guid };

const faces: readonly Face[] = [
  contact(ProtocolVersion.v0_13, { interruptPageGpa: gpa }),
  contact(ProtocolVersion.v4_1, { interruptPageGpa: gpa }),
  contact(ProtocolVersion.v5_0, { sint: u8 }),
  contact(ProtocolVersion.v5_3, { sint: u8, vtl: u8 }),
  contact(ProtocolVersion.v6_0, { sint: u8, vtl: u8, features: without(Feature.clientId) }),
  contact(ProtocolVersion.v6_0, {
    sint: u8,
    vtl: u8,
    features: withBit(Feature.clientId),
    clientId: guid,
  }),
  response(ProtocolVersion.v2_4, {}),
  response(ProtocolVersion.v6_0, { features: without(Feature.hostMonitorPages) }),
  response(ProtocolVersion.v6_0, {
    features: withBit(Feature.hostMonitorPages),
    parentToChildMonitorGpa: gpa,
    childToParentMonitorGpa: gpa,
  }),
  face(
    "OfferChannel",
    protocol.OfferChannel,
    fc.record({
      classId: guid,
      instanceId: guid,
      flags: u16,
      mmioMegabytes: u16,
      userData: blob(120),
      subChannelIndex: u16,
      mmioMegabytesOptional: u16,
      relid: u32,
      monitorId: u8,
      monitorAllocated: bool,
      dedicatedInterrupt: bool,
      connectionId: u32,
    }),
  ),
  face("RescindChannelOffer", protocol.RescindChannelOffer, fc.record(relid)),
  face("RelidReleased", protocol.RelidReleased, fc.record(relid)),
  open(0, 148, {}),
  open(Feature.guestSignalParameters, 156, { signal }),
  open(Feature.interruptRedirection, 156, { redirectInterrupt: bool }),
  open(Feature.guestSignalParameters | Feature.interruptRedirection, 156, {
    signal,
    redirectInterrupt: bool,
  }),
  face(
    "OpenChannelResult",
    protocol.OpenChannelResult,
    fc.record({ ...relid, openId: u32, status: u32 }),
  ),
  face("CloseChannel", protocol.CloseChannel, fc.record(relid)),
  face("ModifyChannel", protocol.ModifyChannel, fc.record({ ...relid, targetVp: u32 })),
  face(
    "ModifyChannelResponse",
    protocol.ModifyChannelResponse,
    fc.record({ ...relid, status: u32 }),
  ),
  face(
    "OpenReservedChannel",
    protocol.OpenReservedChannel,
    fc.record({
      relid: u32,
      targetVp: u32,
      sint: u32,
      ringGpadlId: u32,
      downstreamPageOffset: u32,
    }),
  ),
  face(
    "CloseReservedChannel",
    protocol.CloseReservedChannel,
    fc.record({
      relid: u32,
      targetVp: u32,
      sint: u32,
    }),
  ),
  face("CloseReservedResponse", protocol.CloseReservedResponse, fc.record(relid)),
  face(
    "GpadlHeader",
    protocol.GpadlHeader,
    wholeWords(27).chain((data) =>
      fc.record({
        ...gpadl,
        rangeBytes: fc.integer({ min: data.byteLength, max: 0xffff }),
        rangeCount: u16,
        data: fc.constant(data),
      }),
    ),
  ),
  face(
    "GpadlBody",
    protocol.GpadlBody,
    fc.record({
      messageNumber: u32,
      gpadlId: u32,
      data: wholeWords(28),
    }),
  ),
  face("GpadlCreated", protocol.GpadlCreated, fc.record({ ...gpadl, status: u32 })),
  face("GpadlTeardown", protocol.GpadlTeardown, fc.record(gpadl)),
  face("GpadlTorndown", protocol.GpadlTorndown, fc.record({ gpadlId: u32 })),
  faceIn(
    "TlConnectRequest",
    protocol.TlConnectRequest,
    ProtocolVersion.v4_0,
    40,
    fc.record({
      ...tlConnect,
      siloId: fc.constant(protocol.NIL_GUID),
    }),
  ),
  faceIn(
    "TlConnectRequest",
    protocol.TlConnectRequest,
    ProtocolVersion.v5_2,
    40,
    fc.record({
      ...tlConnect,
      siloId: guid,
    }),
  ),
  face("TlConnectResult", protocol.TlConnectResult, fc.record({ ...tlConnect, status: u32 })),
  face(
    "ModifyConnection",
    protocol.ModifyConnection,
    fc.record({
      parentToChildMonitorGpa: gpa,
      childToParentMonitorGpa: gpa,
    }),
  ),
  face(
    "ModifyConnectionResponse",
    protocol.ModifyConnectionResponse,
    fc.record({ connectionState: u8 }),
  ),
  face("RequestOffers", protocol.RequestOffers, fc.constant({})),
  face("AllOffersDelivered", protocol.AllOffersDelivered, fc.constant({})),
  face("Unload", protocol.Unload, fc.constant({})),
  face("UnloadResponse", protocol.UnloadResponse, fc.constant({})),
  face("Pause", protocol.Pause, fc.constant({})),
  face("PauseResponse", protocol.PauseResponse, fc.constant({})),
  face("Resume", protocol.Resume, fc.constant({})),
  face(
    "PostMessageInput",
    protocol.PostMessageInput,
    fc.record({
      connectionId: u32,
      messageType: u32,
      payloadSize: u32,
      payload: blob(240),
    }),
  ),
  face(
    "SignalEventInput",
    protocol.SignalEventInput,
    fc.record({ connectionId: u32, flagNumber: u16 }),
  ),
  face(
    "MessageSlot",
    protocol.MessageSlot,
    fc.record({
      messageType: u32,
      payloadSize: u8,
      flags: u8,
      sender: u64,
      payload: blob(240),
    }),
  ),
  face(
    "TimerMessage",
    protocol.TimerMessage,
    fc.record({
      timerIndex: u32,
      expirationTime: u64,
      deliveryTime: u64,
    }),
  ),
  face(
    "MonitorParameter",
    protocol.MonitorParameter,
    fc.record({ connectionId: u32, flagNumber: u16 }),
  ),
  face(
    "PipeUserData",
    protocol.PipeUserData,
    fc.record({
      pipeType: u32,
      userData: blob(112),
      flags: u32,
    }),
  ),
  face(
    "HvsockUserData",
    protocol.HvsockUserData,
    fc.record({
      pipeType: u32,
      hostInitiated: bool,
      forContainer: bool,
      version: u32,
      siloId: guid,
    }),
  ),
];

describe.each(faces)("$name", ({ arbitrary, parse, emit, size }) => {
  test("what is emitted is parsed back, also with bytes behind it", () => {
    fc.assert(
      fc.property(arbitrary, (record) => {
        const bytes = emit(record);
        expect(bytes.byteLength).toBeGreaterThanOrEqual(size);
        expect(bytes.byteLength).toBeLessThanOrEqual(256);
        expect(parse(bytes)).toEqual(record);
        // A 240-byte message, as UEFI sends them, means the same. GPADL data would be longer.
        if (Object.keys(record as object).includes("data")) return;
        if (bytes.byteLength > 240) return;
        const padded = new Uint8Array(240);
        padded.set(bytes);
        expect(parse(padded)).toEqual(record);
      }),
    );
  });

  test("any bytes are parsed or refused, and nothing outside them is read", () => {
    const anyBytes = fc.oneof(fc.uint8Array({ maxLength: 260 }), blob(size), blob(256));
    fc.assert(
      fc.property(anyBytes, u8, u8, (bytes, before, after) => {
        const guarded = (guard: number): Uint8Array => {
          const memory = new Uint8Array(bytes.byteLength + 64).fill(guard);
          memory.set(bytes, 32);
          return memory.subarray(32, 32 + bytes.byteLength);
        };
        const first = parse(guarded(before));
        expect(parse(guarded(after))).toEqual(first);
        if (bytes.byteLength < size) expect(first).toBeUndefined();
      }),
    );
  });

  test("a parsed record owns its bytes", () => {
    fc.assert(
      fc.property(arbitrary, (record) => {
        const bytes = emit(record);
        const parsed = parse(bytes);
        bytes.fill(0xff);
        expect(parsed).toEqual(record);
      }),
      { numRuns: 10 },
    );
  });
});

describe("values that do not fit", () => {
  const close = (relid: number): Uint8Array => protocol.CloseChannel.emit({ relid });
  test.each([-1, 0.5, 2 ** 32, Number.NaN, Number.POSITIVE_INFINITY])("a u32 of %d", (value) => {
    expect(() => close(value)).toThrow(/^field relid: .*32 bits$/);
  });
  test("the largest u32 does", () => {
    expect(protocol.CloseChannel.parse(close(0xffff_ffff))).toEqual({ relid: 0xffff_ffff });
  });
  test.each([256, -1])("a u8 of %d", (connectionState) => {
    expect(() => protocol.ModifyConnectionResponse.emit({ connectionState })).toThrow(RangeError);
  });
  test.each([65_536, -1])("a u16 of %d", (flagNumber) => {
    const record = { connectionId: 1, flagNumber };
    expect(() => protocol.SignalEventInput.emit(record)).toThrow(RangeError);
  });
  test.each([-1n, 2n ** 64n])("a u64 of %d", (sender) => {
    const slot = { messageType: 1, payloadSize: 0, flags: 0, payload: new Uint8Array(0) };
    expect(() => protocol.MessageSlot.emit({ ...slot, sender })).toThrow(RangeError);
  });
  test.each([-4096, 2 ** 53, Number.POSITIVE_INFINITY])("an address of %d", (address) => {
    const pages = { parentToChildMonitorGpa: 0, childToParentMonitorGpa: address };
    expect(() => protocol.ModifyConnection.emit(pages)).toThrow(RangeError);
  });
  test("too much user data", () => {
    const record = { pipeType: 0, userData: new Uint8Array(113), flags: 0 };
    expect(() => protocol.PipeUserData.emit(record)).toThrow(/113 bytes do not fit into 112/);
  });
  test("text that is no GUID", () => {
    const endpointId = "f8615163-df3e-46c5-913f-f2d2f965ed0" as protocol.Guid;
    const record = { endpointId, serviceId: protocol.NIL_GUID, status: 0 };
    expect(() => protocol.TlConnectResult.emit(record)).toThrow(/not a GUID/);
  });
  test("an open without the signal that was negotiated", () => {
    const record = {
      relid: 1,
      openId: 1,
      ringGpadlId: 1,
      targetVp: 0,
      downstreamPageOffset: 2,
      userData: new Uint8Array(0),
      redirectInterrupt: false,
    };
    expect(protocol.OpenChannel.emit(record, 0).byteLength).toBe(148);
    expect(() => protocol.OpenChannel.emit(record, Feature.guestSignalParameters)).toThrow(
      RangeError,
    );
  });
});

describe("writing in place", () => {
  test("zeroes what is reserved, fills up short bytes, and touches nothing behind", () => {
    const record = {
      connectionId: 1,
      messageType: 1,
      payloadSize: 2,
      payload: Uint8Array.of(7, 8),
    };
    const memory = new Uint8Array(300).fill(0xee);
    protocol.PostMessageInput.write(memory.subarray(20), record);
    expect(memory.slice(20, 276)).toEqual(protocol.PostMessageInput.emit(record));
    expect(memory.subarray(0, 20).every((byte) => byte === 0xee)).toBe(true);
    expect(memory.subarray(276).every((byte) => byte === 0xee)).toBe(true);
    expect([...memory.subarray(20 + 16, 20 + 20)]).toEqual([7, 8, 0, 0]);

    const message = new Uint8Array(40).fill(0xee);
    protocol.GpadlTorndown.write(message, { gpadlId: 9 });
    expect([...message.subarray(0, 13)]).toEqual([12, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0xee]);
  });

  test("needs room", () => {
    expect(() =>
      protocol.GpadlTorndown.write(new Uint8Array(20).subarray(0, 11), { gpadlId: 9 }),
    ).toThrow(RangeError);
  });
});

describe("addresses", () => {
  test("beyond 2^53 read as Infinity and are never rounded", () => {
    const bytes = protocol.ModifyConnection.emit({
      parentToChildMonitorGpa: Number.MAX_SAFE_INTEGER,
      childToParentMonitorGpa: 0x1_2345_6000,
    });
    const view = new DataView(bytes.buffer);
    expect(view.getBigUint64(8, true)).toBe(2n ** 53n - 1n);
    expect(view.getBigUint64(16, true)).toBe(0x1_2345_6000n);
    for (const value of [2n ** 53n, 2n ** 53n + 1n, 2n ** 64n - 1n]) {
      view.setBigUint64(8, value, true);
      expect(protocol.ModifyConnection.parse(bytes)).toEqual({
        parentToChildMonitorGpa: Number.POSITIVE_INFINITY,
        childToParentMonitorGpa: 0x1_2345_6000,
      });
    }
  });
});

describe("INITIATE_CONTACT and VERSION_RESPONSE", () => {
  const contact: protocol.InitiateContact = {
    version: ProtocolVersion.v6_0,
    targetVp: 3,
    interruptPageGpa: 0x7000,
    sint: 5,
    vtl: 2,
    features: Feature.clientId | Feature.pauseResume,
    parentToChildMonitorGpa: 0x1000,
    childToParentMonitorGpa: 0x2000,
    clientId: "11223344-5566-7788-99aa-bbccddeeff00",
  };
  const nothing = { sint: 2, vtl: 0, features: 0, clientId: protocol.NIL_GUID };

  test.each([
    [ProtocolVersion.v0_13, 40, nothing],
    [ProtocolVersion.v4_1, 40, nothing],
    [ProtocolVersion.v5_0, 40, { ...nothing, interruptPageGpa: 0, sint: 5 }],
    [ProtocolVersion.v5_1, 40, { ...nothing, interruptPageGpa: 0, sint: 5, vtl: 2 }],
    [ProtocolVersion.v5_3, 40, { ...nothing, interruptPageGpa: 0, sint: 5, vtl: 2 }],
    [ProtocolVersion.v6_0, 56, { interruptPageGpa: 0 }],
    [0x0007_0000, 56, { interruptPageGpa: 0 }],
  ])("in version %i the contact carries what belongs to it", (version, size, carried) => {
    const bytes = protocol.InitiateContact.emit({ ...contact, version });
    expect(bytes.byteLength).toBe(size);
    expect(protocol.InitiateContact.parse(bytes)).toEqual({ ...contact, version, ...carried });
  });

  test("a client id that is announced but missing is too short", () => {
    const bytes = protocol.InitiateContact.emit(contact);
    expect(protocol.InitiateContact.parse(bytes.subarray(0, 55))).toBeUndefined();
    // Below 6.0 the same bytes announce nothing.
    new DataView(bytes.buffer).setUint32(8, ProtocolVersion.v5_3, true);
    expect(protocol.InitiateContact.parse(bytes.subarray(0, 40))).toMatchObject({ features: 0 });
  });

  const answer: protocol.VersionResponse = {
    supported: true,
    connectionState: 2,
    selectedVersionOrConnectionId: 9,
    features: Feature.hostMonitorPages,
    parentToChildMonitorGpa: 0x1000,
    childToParentMonitorGpa: 0x2000,
  };
  const plain = { features: 0, parentToChildMonitorGpa: 0, childToParentMonitorGpa: 0 };

  test("a response carries features from 6.0 on, whatever lies behind it below", () => {
    const long = protocol.VersionResponse.emit(answer, ProtocolVersion.v6_0);
    expect(long.byteLength).toBe(40);
    expect(protocol.VersionResponse.parse(long, ProtocolVersion.v6_0)).toEqual(answer);
    expect(protocol.VersionResponse.parse(long, ProtocolVersion.v5_3)).toEqual({
      ...answer,
      ...plain,
    });
    expect(protocol.VersionResponse.emit(answer, ProtocolVersion.v5_3)).toEqual(long.slice(0, 16));
    // Sixteen bytes may answer 6.0 too: without features. Announced pages must be there.
    expect(protocol.VersionResponse.parse(long.subarray(0, 19), ProtocolVersion.v6_0)).toEqual({
      ...answer,
      ...plain,
    });
    expect(
      protocol.VersionResponse.parse(long.subarray(0, 39), ProtocolVersion.v6_0),
    ).toBeUndefined();
  });

  test("a refusal is sixteen bytes of nothing", () => {
    const refusal = protocol.VersionResponse.emit(
      { ...answer, supported: false },
      ProtocolVersion.v6_0,
    );
    expect([...refusal]).toEqual([15, ...new Array<number>(15).fill(0)]);
  });
});
