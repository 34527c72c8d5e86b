import { describe, expect, test } from "vitest";
import vectorFile from "./vectors/vmbus.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";

interface Vector {
  readonly id: string;
  readonly name: string;
  readonly structure: string;
  readonly bytes: string;
  readonly record: Readonly<Record<string, unknown>>;
}
interface Face {
  parse(bytes: Uint8Array): unknown;
  emit(record: never): Uint8Array;
}

const vectors: readonly Vector[] = vectorFile.vectors;
const { ProtocolVersion } = protocol;

/** Byte strings and 64-bit integers of a record, which JSON holds as hexadecimal text. */
const byteFields = ["userData", "payload", "data"];
const wideFields = ["sender"];

function revive(record: Vector["record"]): unknown {
  const entries = Object.entries(record).map(([name, value]) => [
    name,
    byteFields.includes(name)
      ? unhex(value as string)
      : wideFields.includes(name)
        ? BigInt(`0x${value as string}`)
        : value,
  ]);
  return Object.fromEntries(entries);
}

function unhex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "hex"));
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function responseTo(version: number): Face {
  return {
    parse: (bytes) => protocol.VersionResponse.parse(bytes, version),
    emit: (record) => protocol.VersionResponse.emit(record, version),
  };
}

const faces: Readonly<Record<string, Face>> = {
  initiateContact: protocol.InitiateContact,
  "versionResponse 4.0": responseTo(ProtocolVersion.v4_0),
  "versionResponse 5.3": responseTo(ProtocolVersion.v5_3),
  "versionResponse 6.0": responseTo(ProtocolVersion.v6_0),
  requestOffers: protocol.RequestOffers,
  offerChannel: protocol.OfferChannel,
  allOffersDelivered: protocol.AllOffersDelivered,
  gpadlHeader: protocol.GpadlHeader,
  gpadlBody: protocol.GpadlBody,
  gpadlCreated: protocol.GpadlCreated,
  openChannel: {
    parse: (bytes) => protocol.OpenChannel.parse(bytes, 0),
    emit: (record) => protocol.OpenChannel.emit(record, 0),
  },
  openChannelResult: protocol.OpenChannelResult,
  closeChannel: protocol.CloseChannel,
  gpadlTeardown: protocol.GpadlTeardown,
  gpadlTorndown: protocol.GpadlTorndown,
  rescindChannelOffer: protocol.RescindChannelOffer,
  relidReleased: protocol.RelidReleased,
  unload: protocol.Unload,
  unloadResponse: protocol.UnloadResponse,
  modifyChannel: protocol.ModifyChannel,
  modifyChannelResponse: protocol.ModifyChannelResponse,
  "tlConnectRequest 5.1": {
    parse: (bytes) => protocol.TlConnectRequest.parse(bytes, ProtocolVersion.v5_1),
    emit: (record) => protocol.TlConnectRequest.emit(record, ProtocolVersion.v5_1),
  },
  postMessageInput: protocol.PostMessageInput,
  messageSlot: protocol.MessageSlot,
  signalEventInput: protocol.SignalEventInput,
};

test("all 38 vectors are here", () => {
  expect(vectors.map((vector) => vector.id)).toEqual(
    Array.from({ length: 38 }, (_, index) => `V${String(index + 1).padStart(2, "0")}`),
  );
});

describe("messages and hypercall inputs", () => {
  const plain = vectors.filter((vector) => vector.structure !== "packet");

  test.each(plain)("$id $name is parsed and emitted", ({ structure, bytes, record }) => {
    const face = faces[structure]!;
    expect(face.parse(unhex(bytes))).toEqual(revive(record));
    expect(hex(face.emit(revive(record) as never))).toBe(bytes);
  });

  test.each(plain.filter((vector) => Number(vector.id.slice(1)) <= 29))(
    "$id $name is known to the table by its header",
    ({ structure, bytes }) => {
      const name = structure.split(" ")[0] as keyof typeof protocol.MessageType;
      const row = protocol.lookupMessage(protocol.MessageType[name])!;
      const outcome = protocol.parseHeader(unhex(bytes), row.direction, {
        version: ProtocolVersion.v5_3,
        features: 0,
      });
      expect(outcome).toMatchObject({ kind: "ok", type: row.type });
    },
  );
});

test("V14 and V15 with V16 are the messages of a GPADL of 4 and of 32 pages", () => {
  const bytesOf = (id: string): string => vectors.find((vector) => vector.id === id)!.bytes;
  const pages = (first: number, count: number): protocol.GpaRange => ({
    byteCount: count * 4096,
    byteOffset: 0,
    pfns: Array.from({ length: count }, (_, index) => first + index),
  });
  expect(protocol.emitGpadl(14, 0xe1e10, [pages(0x1000, 4)]).map(hex)).toEqual([bytesOf("V14")]);
  expect(protocol.emitGpadl(14, 0xe1e11, [pages(0x2000, 32)]).map(hex)).toEqual([
    bytesOf("V15"),
    bytesOf("V16"),
  ]);
});

interface PacketRecord {
  readonly type: number;
  readonly payload: string;
  readonly transactionId: string;
  readonly start: number;
  readonly completion: boolean;
  readonly setId?: number;
  readonly ranges?: readonly { byteCount: number; byteOffset: number; pfns?: readonly number[] }[];
}

describe("packets", () => {
  const { Packet, PacketTrailer, TransferPages, TransferPageRange, GpaDirect } = protocol;
  const packets = vectors.filter((vector) => vector.structure === "packet");

  test.each(packets)("$id $name is laid out as the offsets say", ({ bytes, record }) => {
    const expected = record as unknown as PacketRecord;
    const packet = unhex(bytes);
    const view = new DataView(packet.buffer);
    const dataOffset = view.getUint16(Packet.dataOffset8, true) * 8;
    const length = view.getUint16(Packet.length8, true) * 8;

    expect(view.getUint16(Packet.type, true)).toBe(expected.type);
    expect(view.getUint16(Packet.flags, true)).toBe(
      expected.completion ? protocol.PACKET_FLAG_COMPLETION_REQUESTED : 0,
    );
    const high = view.getUint32(Packet.transactionIdHigh, true).toString(16);
    const low = view.getUint32(Packet.transactionIdLow, true).toString(16).padStart(8, "0");
    expect(BigInt(`0x${high}${low}`)).toBe(BigInt(`0x${expected.transactionId}`));
    expect(hex(packet.subarray(dataOffset, length))).toBe(expected.payload);
    expect(packet.byteLength).toBe(length + Packet.trailerBytes);
    expect(view.getUint32(length + PacketTrailer.reserved, true)).toBe(0);
    expect(view.getUint32(length + PacketTrailer.packetStart, true)).toBe(expected.start);

    switch (expected.type) {
      case protocol.PacketType.inBand:
      case protocol.PacketType.completion:
        expect(dataOffset).toBe(Packet.descriptorBytes);
        break;
      case protocol.PacketType.transferPages: {
        expect(view.getUint16(TransferPages.setId, true)).toBe(expected.setId);
        const count = view.getUint32(TransferPages.rangeCount, true);
        const ranges = Array.from({ length: count }, (_, index) => {
          const at = TransferPages.ranges + index * TransferPageRange.SIZE;
          return {
            byteCount: view.getUint32(at + TransferPageRange.byteCount, true),
            byteOffset: view.getUint32(at + TransferPageRange.byteOffset, true),
          };
        });
        expect(ranges).toEqual(expected.ranges);
        expect(dataOffset).toBe(TransferPages.ranges + count * TransferPageRange.SIZE);
        break;
      }
      case protocol.PacketType.gpaDirect: {
        const ranges = packet.subarray(GpaDirect.ranges, dataOffset);
        const count = view.getUint32(GpaDirect.rangeCount, true);
        expect(protocol.parseGpaRanges(ranges, count, ranges.byteLength)).toEqual({
          kind: "ok",
          ranges: expected.ranges,
        });
        const emitted = protocol.emitGpaRanges(expected.ranges as readonly protocol.GpaRange[]);
        expect(hex(emitted)).toBe(hex(ranges));
        break;
      }
      default:
        expect.fail(`packet type ${expected.type}`);
    }
  });
});
