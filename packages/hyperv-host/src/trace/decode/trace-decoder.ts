import {
  DeviceClass,
  GpaDirect,
  Msr,
  OfferFlag,
  PACKET_FLAG_COMPLETION_REQUESTED,
  PacketType,
  PipeHeader,
  PipePacketType,
  parseGpaRanges,
  type Guid,
  type OfferChannel,
} from "@hyperv-is/vmbus-core/protocol";
import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import { TICKS_PER_MS } from "../trace-format.js";
import type { PacketRecord, TraceRecord } from "../trace-reader.js";
import type { Decoded, DecodedFields } from "./decoded.js";
import { decodeIntegration } from "./integration-decoder.js";
import { MessageDecoder, pageRuns } from "./message-decoder.js";
import { decodeNetwork } from "./network-decoder.js";
import { className, constantName, hex, hexBytes } from "./protocol-names.js";
import { decodeStorage } from "./storage-decoder.js";

/** A record of a trace in words. */
export interface DecodedRecord extends Decoded {
  /** Since the trace began; a multiple of 0.1 us. */
  readonly seconds: number;
  /** Undefined for what is neither message nor packet. */
  readonly direction: "guest-to-host" | "host-to-guest" | undefined;
  /** Virtual processor that posted or got a message, or that gets the channel's interrupts. */
  readonly vp: number | undefined;
  /** Relid of the channel that it is about; undefined if none. */
  readonly relid: number | undefined;
  /** Class of that channel's device, as `DeviceClass` names it, or its id. */
  readonly device: string | undefined;
}

/** Decodes the payload of a device's packets. @param request - payload of the packet that is completed. */
type PacketDecoder = (payload: Uint8Array, request: Uint8Array | undefined) => Decoded;

const { network, heartbeat, kvp, shutdown, timeSync, vss } = DeviceClass;

const packetDecoders: ReadonlyMap<Guid, PacketDecoder> = new Map<Guid, PacketDecoder>([
  ...Object.values(StorageClassId).map((classId) => [classId, decodeStorage] as const),
  [network.classId, decodeNetwork],
  ...[heartbeat, kvp, shutdown, timeSync, vss].map(
    ({ classId }) => [classId, decodeIntegration] as const,
  ),
]);

interface DecodedChannel {
  readonly relid: number;
  readonly classId: Guid;
  readonly instanceId: Guid;
  /** Payloads of packets that wait for their completion, by way and transaction id. */
  readonly requests: Map<string, Uint8Array>;
}

/** Decodes the records of a trace, one after the other: what a record means depends on those before. */
export class TraceDecoder {
  readonly #messages = new MessageDecoder();
  readonly #channels = new Map<number, DecodedChannel>();
  /** Class of the device behind each relid. */
  readonly #devices = new Map<number, Guid>();
  /** Relid of each GPADL. */
  readonly #gpadls = new Map<number, number>();
  /** Devices in pipe mode. */
  readonly #pipes = new Set<Guid>();

  decode(record: TraceRecord): DecodedRecord {
    const common = { seconds: record.time / (TICKS_PER_MS * 1000), vp: record.vp };
    switch (record.kind) {
      case "guest-message":
        return {
          ...common,
          ...this.#message(record.payload, "guest-to-host", {
            connection: hex(record.connectionId),
          }),
        };
      case "host-message":
        return {
          ...common,
          ...this.#message(record.payload, "host-to-guest", {
            sint: record.sint,
            ...(record.lost && { lost: true }),
          }),
        };
      case "register": {
        const sint = record.msr - Msr.sint0;
        const name = sint >= 0 && sint < 16 ? `SINT${sint}` : constantName(Msr, record.msr);
        return { ...common, ...nowhere, name, fields: { value: hex(record.value) } };
      }
      case "channel-opened": {
        const { channel, relid, classId, instanceId, subChannelIndex, downstreamPageOffset } =
          record;
        this.#channels.set(channel, { relid, classId, instanceId, requests: new Map() });
        this.#devices.set(relid, classId);
        // A trace that begins on a connected machine shows no negotiation.
        this.#messages.negotiated ??= { version: record.version, features: record.features };
        return {
          ...common,
          direction: undefined,
          ...this.#where(relid),
          name: "channel opened",
          fields: {
            instanceId,
            subChannelIndex,
            ringGpadlId: hex(record.ringGpadlId),
            downstreamPageOffset,
            eventFlag: record.eventFlag,
          },
        };
      }
      case "channel-closed": {
        const relid = this.#channels.get(record.channel)?.relid;
        const { reason } = record;
        return {
          ...common,
          direction: undefined,
          ...this.#where(relid),
          name: "channel closed",
          fields: { reason },
        };
      }
      case "packet":
        return { ...common, ...this.#packet(record) };
    }
  }

  #message(
    payload: Uint8Array,
    direction: "guest-to-host" | "host-to-guest",
    route: DecodedFields,
  ): Omit<DecodedRecord, "seconds" | "vp"> {
    const { name, fields, message = {} } = this.#messages.decode(payload, direction);
    const {
      relid: named,
      gpadlId,
      classId,
      instanceId,
      flags,
    } = message as Partial<OfferChannel> & {
      readonly gpadlId?: number;
    };
    if (classId !== undefined && named !== undefined) this.#devices.set(named, classId);
    if (instanceId !== undefined && flags !== undefined && (flags & OfferFlag.namedPipeMode) !== 0)
      this.#pipes.add(instanceId);
    if (gpadlId !== undefined && named !== undefined) this.#gpadls.set(gpadlId, named);
    const relid = named ?? (gpadlId === undefined ? undefined : this.#gpadls.get(gpadlId));
    return { direction, ...this.#where(relid), name, fields: { ...route, ...fields } };
  }

  #where(relid: number | undefined): Pick<DecodedRecord, "relid" | "device"> {
    const classId = relid === undefined ? undefined : this.#devices.get(relid);
    return { relid, device: classId && (className(classId) ?? classId) };
  }

  #packet(record: PacketRecord): Omit<DecodedRecord, "seconds" | "vp"> {
    const { toGuest, bytes, headerBytes, type, flags, transactionId, data } = record;
    const channel = this.#channels.get(record.channel);
    const payload = bytes.subarray(headerBytes);
    let request: Uint8Array | undefined;
    if (type === PacketType.completion) {
      const key = `${!toGuest}:${transactionId}`;
      request = channel?.requests.get(key);
      channel?.requests.delete(key);
    } else if ((flags & PACKET_FLAG_COMPLETION_REQUESTED) !== 0)
      channel?.requests.set(`${toGuest}:${transactionId}`, payload);
    const decode = channel && packetDecoders.get(channel.classId);
    const { name, fields } = decode
      ? decode(payload, request)
      : this.#unknown(record, payload, channel);
    return {
      direction: toGuest ? "host-to-guest" : "guest-to-host",
      ...this.#where(channel?.relid),
      name,
      fields: {
        id: hex(transactionId),
        ...fields,
        ...(type === PacketType.gpaDirect && rangesOf(record)),
        ...(data && { data: hexBytes(data.bytes) }),
      },
    };
  }

  /** A packet of a device whose protocol is not known here. */
  #unknown({ type, flags }: PacketRecord, payload: Uint8Array, channel?: DecodedChannel): Decoded {
    const fields: Record<string, string | number> = { payloadBytes: payload.byteLength };
    if ((flags & PACKET_FLAG_COMPLETION_REQUESTED) !== 0) fields["flags"] = "COMPLETION_REQUESTED";
    const isPipe = channel !== undefined && this.#pipes.has(channel.instanceId);
    let rest = payload;
    if (isPipe && type !== PacketType.completion && payload.byteLength >= PipeHeader.SIZE) {
      const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
      const lengthBytes = view.getUint32(PipeHeader.length, true);
      fields["pipe"] = constantName(PipePacketType, view.getUint32(PipeHeader.packetType, true));
      fields["pipeBytes"] = lengthBytes;
      rest = payload.subarray(PipeHeader.SIZE, PipeHeader.SIZE + lengthBytes);
    }
    return { name: constantName(PacketType, type), fields: { ...fields, payload: hexBytes(rest) } };
  }
}

const nowhere = { direction: undefined, relid: undefined, device: undefined } as const;

/** The guest memory that a GPA-direct packet names. */
function rangesOf({ bytes, headerBytes }: PacketRecord): DecodedFields {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (headerBytes < GpaDirect.ranges) return { ranges: "too-short" };
  const outcome = parseGpaRanges(
    bytes.subarray(GpaDirect.ranges),
    view.getUint32(GpaDirect.rangeCount, true),
    headerBytes - GpaDirect.ranges,
  );
  if (outcome.kind === "fault") return { ranges: outcome.fault };
  return {
    ranges: outcome.ranges
      .map(
        ({ byteCount, byteOffset, pfns }) =>
          `${byteCount}@${hex(byteOffset)}:${pageRuns(pfns.map(BigInt))}`,
      )
      .join(" "),
  };
}
