import { describe, expect, test } from "vitest";
import {
  MessageHeader,
  MessageType,
  ProtocolVersion,
  lookupMessage,
} from "@hyperv-is/vmbus-core/protocol";
import {
  MessageDecoder,
  TraceDecoder,
  decodeStorage,
  traceLine,
  type TraceRecord,
} from "@hyperv-is/hyperv-host/trace";
import storage from "../../hv-storvsc/test/vectors/storage.json" with { type: "json" };
import vmbus from "../../vmbus-core/test/vectors/vmbus.json" with { type: "json" };
import { unhex } from "./scsi-rig.js";

describe("channel messages", () => {
  const messages = vmbus.vectors.filter(({ structure, bytes }) => {
    const type = MessageHeader.parse(unhex(bytes))?.type ?? 0;
    return structure in MessageType || /^(versionResponse|tlConnectRequest) /.test(structure)
      ? lookupMessage(type) !== undefined
      : false;
  });

  test("there are vectors of most of them", () => {
    expect(new Set(messages.map(({ structure }) => structure)).size).toBeGreaterThan(18);
  });

  test.each(messages)("$id $name has its name and fields", ({ bytes, structure, record }) => {
    const decoder = new MessageDecoder();
    const payload = unhex(bytes);
    const row = lookupMessage(MessageHeader.parse(payload)!.type)!;
    // The version that a response answers, or that is spoken: it is in the vector's name where it matters.
    const text = / (\d)\.(\d)$/.exec(structure);
    const version = text ? Number(text[1]) * 65_536 + Number(text[2]) : ProtocolVersion.v5_3;
    const contact = new Uint8Array(40);
    contact[0] = MessageType.initiateContact;
    new DataView(contact.buffer).setUint32(8, version, true);
    decoder.parse(contact, "guest-to-host");
    if (row.type !== MessageType.versionResponse) decoder.negotiated = { version, features: 0 };
    const { name, fields, message } = decoder.decode(payload, row.direction);
    expect(name).toBe(row.name);
    expect(fields).not.toHaveProperty("problem");
    // Byte strings are digits in a vector.
    const values = Object.entries(message!).filter(([, value]) => !(value instanceof Uint8Array));
    expect(record).toMatchObject(Object.fromEntries(values));
  });

  test("fields are shown as the protocol names their values", () => {
    const decoder = new MessageDecoder();
    const show = (id: string, direction: "guest-to-host" | "host-to-guest"): unknown =>
      decoder.decode(unhex(vmbus.vectors.find((vector) => vector.id === id)!.bytes), direction);
    expect(show("V04", "guest-to-host")).toMatchObject({
      name: "INITIATE_CONTACT",
      fields: {
        version: "6.0",
        features:
          "GUEST_SIGNAL_PARAMETERS|INTERRUPT_REDIRECTION|MODIFY_CONNECTION|CLIENT_ID|PAUSE_RESUME",
      },
    });
    expect(show("V08", "host-to-guest")).toMatchObject({ fields: { connectionState: "OK" } });
    expect(decoder.negotiated?.version).toBe(ProtocolVersion.v6_0);
    expect(show("V10", "host-to-guest")).toMatchObject({
      fields: { classId: "network", relid: 14 },
    });
    expect(show("V15", "guest-to-host")).toMatchObject({ fields: { pages: "0x2000-0x2019" } });
    expect(show("V16", "guest-to-host")).toMatchObject({ fields: { pages: "0x201a-0x201f" } });
    expect(show("V17", "host-to-guest")).toMatchObject({
      fields: { gpadlId: "0xe1e10", status: "SUCCESS" },
    });
  });

  test("what may not be received is shown with what is wrong with it", () => {
    const decoder = new MessageDecoder();
    const offers = Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0);
    const problem = (bytes: Uint8Array, direction: "guest-to-host" | "host-to-guest"): unknown =>
      decoder.decode(bytes, direction);
    expect(problem(offers, "guest-to-host")).toMatchObject({
      name: "REQUESTOFFERS",
      fields: { problem: "not-negotiated" },
    });
    expect(problem(offers, "host-to-guest")).toMatchObject({
      fields: { problem: "wrong-direction" },
    });
    expect(problem(Uint8Array.of(99, 0, 0, 0, 0, 0, 0, 0), "guest-to-host")).toMatchObject({
      name: "MESSAGE_99",
      fields: { problem: "unknown-type" },
    });
    expect(problem(Uint8Array.of(3), "guest-to-host")).toMatchObject({
      fields: { problem: "too-short" },
    });
  });
});

describe("storage packets", () => {
  const packets = storage.vectors.filter(({ kind }) => kind === "vstor");
  const bytesOf = (id: string): Uint8Array => unhex(packets.find((one) => one.id === id)!.hex);
  const operations = [
    ...["", "COMPLETE_IO", "REMOVE_DEVICE", "EXECUTE_SRB", "RESET_LUN", "RESET_ADAPTER"],
    ...["RESET_BUS", "BEGIN_INITIALIZATION", "END_INITIALIZATION", "QUERY_PROTOCOL_VERSION"],
    ...["QUERY_PROPERTIES", "ENUMERATE_BUS", "FIBRE_CHANNEL_HBA_DATA", "CREATE_SUB_CHANNELS"],
  ];

  test.each(packets)("$id has the name of its operation", ({ hex, fields }) => {
    const { name, fields: shown } = decodeStorage(unhex(hex), undefined);
    expect(name).toBe(operations[(fields as { operation: number }).operation]);
    expect(shown).not.toHaveProperty("problem");
  });

  test.each([
    [
      "tur-freebsd-lun0",
      { command: "TEST UNIT READY", lun: "0:0:0", direction: "NONE", dataBytes: 0 },
    ],
    ["inquiry-36-freebsd-lun1", { command: "INQUIRY", lun: "0:0:1", dataBytes: 36 }],
    [
      "read10-lba8-4096-linux-tagged-port2",
      { command: "READ(10)", lba: 8, blocks: 8, direction: "FROM_DEVICE", srbFlags: "0x14a" },
    ],
    [
      "write16-lba4g-131072-freebsd-lun5",
      { command: "WRITE(16)", lba: 2 ** 32, blocks: 256, direction: "TO_DEVICE", lun: "0:0:5" },
    ],
    ["query-version-6.2", { version: "6.2" }],
    ["create-sub-channels-3", { count: 3 }],
  ])("%s", (id, fields) => {
    expect(decodeStorage(bytesOf(id), undefined).fields).toMatchObject(fields);
  });

  const read = "read10-lba8-4096-freebsd";
  test.each([
    ["complete-read-ok", { srb: "SUCCESS", scsi: "GOOD", dataBytes: 4096, of: "READ(10)" }],
    ["complete-invalid-lun-hyperv", { srb: "INVALID_LUN", status: "DEVICE_DOES_NOT_EXIST" }],
    [
      "complete-ua-capacity-changed",
      {
        srb: "ERROR",
        srbFlags: "AUTOSENSE_VALID",
        scsi: "CHECK_CONDITION",
        sense: "6/2a/09 UNIT ATTENTION CAPACITY DATA CHANGED",
      },
    ],
    [
      "complete-illegal-request-invalid-cdb",
      { srb: "INVALID_REQUEST", sense: "5/24/00 ILLEGAL REQUEST INVALID FIELD IN CDB" },
    ],
    ["complete-reservation-conflict", { scsi: "RESERVATION_CONFLICT", status: "IO_DEVICE_ERROR" }],
    ["complete-busy", { srb: "BUSY", scsi: "BUSY", status: "DEVICE_BUSY" }],
    ["complete-data-overrun", { srb: "DATA_OVERRUN", status: "BUFFER_OVERFLOW" }],
  ])("%s of a READ", (id, fields) => {
    expect(decodeStorage(bytesOf(id), bytesOf(read)).fields).toMatchObject(fields);
  });

  test("answers of the initialization are read by what they answer", () => {
    const answer = (id: string, request: string): unknown =>
      decodeStorage(bytesOf(id), bytesOf(request)).fields;
    expect(answer("query-properties-reply", "query-properties")).toMatchObject({
      of: "QUERY_PROPERTIES",
      subChannelCountMax: 4,
      flags: "MULTI_CHANNEL",
      maxTransferBytes: 262_144,
    });
    expect(answer("query-version-6.2-reply-mismatch", "query-version-6.2")).toMatchObject({
      status: "REVISION_MISMATCH",
      version: "6.2",
    });
  });
});

describe("lines", () => {
  const [id] = ["aaaaaaaa-0000-0000-0000-000000000001"] as const;
  const opened = (classId: string, channel: number): TraceRecord => ({
    kind: "channel-opened",
    ...{ time: 0, vp: 0, offset: 0, channel, relid: channel + 10, instanceId: id },
    classId: classId as `${string}-${string}-${string}-${string}-${string}`,
    ...{ subChannelIndex: 0, version: 0x5_0003, features: 0, ringGpadlId: 1 },
    ...{ downstreamPageOffset: 4, eventFlag: 11 },
  });

  test("a completion is decoded by the request with its id, however many wait", () => {
    const decoder = new TraceDecoder();
    decoder.decode(opened("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", 1));
    const packet = (vector: string, id: bigint, toGuest: boolean): unknown => {
      const payload = unhex(storage.vectors.find((one) => one.id === vector)!.hex);
      const bytes = new Uint8Array(16 + payload.byteLength);
      bytes.set(payload, 16);
      const { fields } = decoder.decode({
        kind: "packet",
        ...{ time: 0, vp: 0, offset: 0, toGuest, channel: 1, bytes, headerBytes: 16 },
        ...{ type: toGuest ? 11 : 6, flags: toGuest ? 0 : 1, transactionId: id },
      });
      return fields["of"];
    };
    packet("tur-freebsd-lun0", 1n, false);
    packet("inquiry-36-freebsd-lun1", 2n ** 63n, false);
    packet("query-properties", 3n, false);
    expect(packet("complete-read-ok", 2n ** 63n, true)).toBe("INQUIRY");
    expect(packet("query-properties-reply", 3n, true)).toBe("QUERY_PROPERTIES");
    expect(packet("complete-busy", 1n, true)).toBe("TEST UNIT READY");
    // An id means a request only once.
    expect(packet("complete-busy", 1n, true)).toBeUndefined();
  });

  test("packets on the wire become lines by the class of their device", () => {
    const decoder = new TraceDecoder();
    decoder.decode(opened("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", 1));
    decoder.decode(opened("11111111-2222-3333-4444-555555555555", 2));
    const line = (vector: string, channel: number, toGuest: boolean): string => {
      const wire = unhex(storage.vectors.find((one) => one.id === vector)!.hex);
      const bytes = wire.subarray(0, wire.byteLength - 8);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      return traceLine(
        decoder.decode({
          kind: "packet",
          ...{ time: 12_345, vp: 2, offset: 0, toGuest, channel, bytes },
          type: view.getUint16(0, true),
          headerBytes: view.getUint16(2, true) * 8,
          flags: view.getUint16(6, true),
          transactionId: view.getBigUint64(8, true),
        }),
      );
    };
    expect(line("vmbus-gpadirect-read10-ofs200-2pages", 1, false)).toMatch(
      /^ {4}0\.0012345 > vp2 {2}11\.scsi {6}EXECUTE_SRB id=0x\w+ command=READ\(10\) .* ranges=4096@0x200:0x\w+/,
    );
    expect(line("vmbus-completion-read-ok", 1, true)).toMatch(
      /^ {4}0\.0012345 < vp2 {2}11\.scsi {6}COMPLETE_IO id=0x\w+ of=READ\(10\) status=SUCCESS srb=SUCCESS scsi=GOOD dataBytes=4096$/,
    );
    expect(line("vmbus-unsolicited-enumerate-bus", 1, true)).toContain("ENUMERATE_BUS id=0x0");
    expect(line("vmbus-inband-begin-init", 2, false)).toMatch(
      /12\.11111111-2222-3333-4444-555555555555 IN_BAND id=0x\w+ payloadBytes=64 flags=COMPLETION_REQUESTED payload=0{0,1}7000000/,
    );
  });
});
