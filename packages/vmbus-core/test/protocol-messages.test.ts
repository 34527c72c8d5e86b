import { describe, expect, test } from "vitest";
import * as protocol from "../src/protocol/index.js";

const { Feature, ProtocolVersion, parseHeader } = protocol;

/**
 * The table of messages as the protocol's description has it: number, name, sender, first version
 * (0: any, and without a connection), then least bytes by what was negotiated.
 */
const G = "guest-to-host";
const H = "host-to-guest";
const expected: readonly (readonly [
  number,
  string,
  protocol.MessageDirection,
  number,
  number,
  number,
])[] = [
  // number, name, direction, since, least bytes, one of these features
  [1, "OFFERCHANNEL", H, 0x0000_000d, 196, 0],
  [2, "RESCIND_CHANNELOFFER", H, 0x0000_000d, 12, 0],
  [3, "REQUESTOFFERS", G, 0x0000_000d, 8, 0],
  [4, "ALLOFFERS_DELIVERED", H, 0x0000_000d, 8, 0],
  [5, "OPENCHANNEL", G, 0x0000_000d, 148, 0], // 156 with feature 1 or 2
  [6, "OPENCHANNEL_RESULT", H, 0x0000_000d, 20, 0],
  [7, "CLOSECHANNEL", G, 0x0000_000d, 12, 0],
  [8, "GPADL_HEADER", G, 0x0000_000d, 20, 0],
  [9, "GPADL_BODY", G, 0x0000_000d, 16, 0],
  [10, "GPADL_CREATED", H, 0x0000_000d, 20, 0],
  [11, "GPADL_TEARDOWN", G, 0x0000_000d, 16, 0],
  [12, "GPADL_TORNDOWN", H, 0x0000_000d, 12, 0],
  [13, "RELID_RELEASED", G, 0x0000_000d, 12, 0],
  [14, "INITIATE_CONTACT", G, 0, 40, 0],
  [15, "VERSION_RESPONSE", H, 0, 16, 0],
  [16, "UNLOAD", G, 0x0000_000d, 8, 0],
  [17, "UNLOAD_RESPONSE", H, 0x0001_0001, 8, 0],
  [18, "OPEN_RESERVED_CHANNEL", G, 0x0004_0000, 28, 0],
  [19, "CLOSE_RESERVED_CHANNEL", G, 0, 20, 0],
  [20, "CLOSE_RESERVED_RESPONSE", H, 0x0004_0000, 12, 0],
  [21, "TL_CONNECT_REQUEST", G, 0x0004_0000, 40, 0],
  [22, "MODIFYCHANNEL", G, 0x0004_0001, 16, 0],
  [23, "TL_CONNECT_RESULT", H, 0x0004_0001, 44, 0],
  [24, "MODIFYCHANNEL_RESPONSE", H, 0x0005_0003, 16, 0],
  [25, "MODIFY_CONNECTION", G, 0x0006_0000, 24, 0x4],
  [26, "MODIFY_CONNECTION_RESPONSE", H, 0x0006_0000, 9, 0x4],
  [27, "PAUSE", G, 0x0006_0000, 8, 0x20],
  [28, "PAUSE_RESPONSE", H, 0x0006_0000, 8, 0x20],
  [29, "RESUME", G, 0x0006_0000, 8, 0x20],
];

/** Every state of a connection: none, each version, and 6.0 with each feature alone and with all. */
const states: readonly (protocol.Negotiated | undefined)[] = [
  undefined,
  ...protocol.protocolVersions.map(({ version }) => ({ version, features: 0 })),
  ...[...Object.values(Feature), 0xff].map((features) => ({
    version: ProtocolVersion.v6_0,
    features,
  })),
];

function messageOf(type: number, size: number): Uint8Array {
  const bytes = new Uint8Array(size).fill(0xee);
  if (size >= 4) new DataView(bytes.buffer).setUint32(0, type, true);
  return bytes;
}

describe("the table of messages", () => {
  test("has every message once, in order", () => {
    expect(
      protocol.messageTable.map(({ type, name, direction }) => [type, name, direction]),
    ).toEqual(expected.map(([type, name, direction]) => [type, name, direction]));
    expect(Object.values(protocol.MessageType)).toEqual(expected.map(([type]) => type));
    for (const row of protocol.messageTable) expect(protocol.lookupMessage(row.type)).toBe(row);
  });

  test("says what is legal without a connection", () => {
    const names = protocol.messageTable
      .filter((row) => row.whenDisconnected)
      .map((row) => row.name);
    expect(names).toEqual(["INITIATE_CONTACT", "VERSION_RESPONSE", "CLOSE_RESERVED_CHANNEL"]);
  });

  describe.each(expected)("%i %s (%s)", (type, name, direction, since, leastBytes, features) => {
    test.each(states)("in state %o", (negotiated) => {
      const legal =
        since === 0 ||
        (negotiated !== undefined &&
          negotiated.version >= since &&
          (features === 0 || (negotiated.features & features) !== 0));
      const size =
        name === "OPENCHANNEL" && ((negotiated?.features ?? 0) & 0x3) !== 0 ? 156 : leastBytes;
      const header = { type, message: { name } };

      const other = direction === G ? H : G;
      for (const length of [8, size, 240])
        expect(parseHeader(messageOf(type, length), other, negotiated)).toMatchObject({
          kind: "wrong-direction",
          ...header,
        });
      if (!legal) {
        for (const length of [8, size, 240])
          expect(parseHeader(messageOf(type, length), direction, negotiated)).toMatchObject({
            kind: "not-negotiated",
            ...header,
          });
        return;
      }
      for (const length of [size, 240])
        expect(parseHeader(messageOf(type, length), direction, negotiated)).toMatchObject({
          kind: "ok",
          ...header,
        });
      if (size > 8)
        expect(parseHeader(messageOf(type, size - 1), direction, negotiated)).toMatchObject({
          kind: "too-short",
          message: { name },
          size,
        });
    });
  });

  test.each([
    [14, 40, undefined, 40],
    [14, 55, undefined, 40],
    [14, 56, undefined, 56],
    [15, 16, undefined, 16],
    [15, 19, undefined, 16],
    [15, 20, undefined, 20],
    [15, 39, undefined, 20],
    [15, 40, undefined, 40],
    [21, 56, { version: ProtocolVersion.v5_1, features: 0 }, 40],
    [21, 55, { version: ProtocolVersion.v5_2, features: 0 }, 40],
    [21, 56, { version: ProtocolVersion.v5_2, features: 0 }, 56],
    [5, 156, { version: ProtocolVersion.v6_0, features: Feature.clientId }, 148],
    [5, 156, { version: ProtocolVersion.v6_0, features: Feature.interruptRedirection }, 156],
  ])("message %i of %i bytes in state %o is the form of %i", (type, length, negotiated, size) => {
    const row = protocol.lookupMessage(type)!;
    expect(parseHeader(messageOf(type, length), row.direction, negotiated)).toMatchObject({
      kind: "ok",
      variant: { size },
    });
  });

  test.each([0, 30, 0x8000_0001, 0xffff_ffff])("does not know type %i", (type) => {
    for (const direction of [G, H] as const)
      expect(parseHeader(messageOf(type, 240), direction, states[1])).toEqual({
        kind: "unknown-type",
        type,
      });
  });

  test.each([0, 1, 4, 7])("needs a header: %i bytes are too few", (length) => {
    expect(parseHeader(messageOf(14, length), G, undefined)).toEqual({
      kind: "too-short",
      message: undefined,
      size: 8,
    });
  });
});

describe("versions", () => {
  test("are negotiated from the ceiling down", () => {
    const text = (ceiling: number): string[] =>
      protocol.negotiationOrder(ceiling).map(protocol.formatVersion);
    expect(text(0xffff_ffff)).toEqual("6.0 5.3 5.2 5.1 5.0 4.1 4.0 3.0 2.4 1.1 0.13".split(" "));
    expect(text(ProtocolVersion.v4_0)).toEqual(["4.0", "3.0", "2.4", "1.1", "0.13"]);
    expect(text(ProtocolVersion.v0_13)).toEqual(["0.13"]);
    expect(text(0)).toEqual([]);
    // Between two versions: the next lower one is the first.
    expect(text(0x0004_0007)[0]).toBe("4.1");
  });

  test.each(protocol.protocolVersions)("%o has a name that leads back to it", ({ version }) => {
    expect(protocol.parseVersion(protocol.formatVersion(version))).toBe(version);
    expect(protocol.isProtocolVersion(version)).toBe(true);
  });

  test.each(["", "5", "5.03", "5.4", "0.1", "5.3 ", "-5.3", "0x5.3"])("%j is none", (text) => {
    expect(protocol.parseVersion(text)).toBeUndefined();
  });

  test.each([0, 0x0000_000e, 0x0005_0004, 0xffff_ffff])("%i is none", (version) => {
    expect(protocol.isProtocolVersion(version)).toBe(false);
  });

  test.each([
    ["channelConnectionIds", "1.1"],
    ["eventFlags", "2.4"],
    ["channelTargetVp", "2.4"],
    ["subChannels", "2.4"],
    ["pendingSendSize", "2.4"],
    ["connectionState", "2.4"],
    ["messageTargetVp", "3.0"],
    ["reconnect", "3.0"],
    ["targetInfo", "5.0"],
    ["namedMessageConnection", "5.0"],
    ["trustLevel", "5.1"],
    ["isolation", "5.2"],
    ["featureFlags", "6.0"],
  ] as const)("%s is there from %s on", (behaviour, first) => {
    const having = protocol.protocolVersions
      .map((row) => row.version)
      .filter((version) => protocol.versionHas(version, behaviour));
    expect(having).toEqual(
      protocol.protocolVersions.map((row) => row.version).slice(0, having.length),
    );
    expect(protocol.formatVersion(having.at(-1)!)).toBe(first);
  });

  test("limit relids, and choose the connections of messages", () => {
    const rows = protocol.protocolVersions.map(({ version }) => [
      protocol.formatVersion(version),
      protocol.maximumRelid(version),
      protocol.contactConnectionId(version),
      protocol.messageConnectionId(version, {
        supported: true,
        connectionState: 0,
        selectedVersionOrConnectionId: 77,
        features: 0,
        parentToChildMonitorGpa: 0,
        childToParentMonitorGpa: 0,
      }),
    ]);
    expect(rows).toEqual([
      ...["6.0", "5.3", "5.2", "5.1", "5.0"].map((name) => [name, 2047, 4, 77]),
      ...["4.1", "4.0", "3.0", "2.4"].map((name) => [name, 2047, 1, 1]),
      ...["1.1", "0.13"].map((name) => [name, 255, 1, 1]),
    ]);
  });
});
