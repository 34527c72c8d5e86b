import {
  CloseChannel,
  CloseReservedChannel,
  CloseReservedResponse,
  ModifyChannel,
  ModifyChannelResponse,
  OpenChannel,
  OpenChannelResult,
  OpenReservedChannel,
} from "./channels.js";
import {
  InitiateContact,
  ModifyConnection,
  ModifyConnectionResponse,
  Pause,
  PauseResponse,
  Resume,
  Unload,
  UnloadResponse,
  VersionResponse,
} from "./connection.js";
import { GpadlBody, GpadlCreated, GpadlHeader, GpadlTeardown, GpadlTorndown } from "./gpadl.js";
import { TlConnectRequest, TlConnectResult } from "./hvsock.js";
import { MessageHeader, MessageType } from "./message-record.js";
import {
  AllOffersDelivered,
  OfferChannel,
  RelidReleased,
  RequestOffers,
  RescindChannelOffer,
} from "./offers.js";
import { Feature, ProtocolVersion, type Negotiated } from "./versions.js";

/** Who sends a message. */
export type MessageDirection = "guest-to-host" | "host-to-guest";

/** One form of a message. */
export interface MessageVariant {
  /** First version with this form; 0 if it is legal before a version is agreed. */
  readonly since: ProtocolVersion;
  /** Least bytes, header included; more are ignored. */
  readonly size: number;
  /** `Feature` bits of which one must have been negotiated; 0: none. */
  readonly features: number;
  /** A shorter message is not an error but the next form. */
  readonly bySize: boolean;
}

/** One message of the protocol. */
export interface MessageRow {
  readonly type: MessageType;
  /** As the protocol calls it. */
  readonly name: string;
  readonly direction: MessageDirection;
  /** Legal without a connection, whatever was negotiated. */
  readonly whenDisconnected: boolean;
  /** Newest first: the first that version, features and, where it decides, size allow is meant. */
  readonly variants: readonly MessageVariant[];
}

function form(
  since: ProtocolVersion,
  size: number,
  { features = 0, bySize = false } = {},
): MessageVariant {
  return { since, size, features, bySize };
}

const TO_HOST = "guest-to-host";
const TO_GUEST = "host-to-guest";
const { v0_13, v1_1, v4_0, v4_1, v5_3, v6_0 } = ProtocolVersion;
const ANY = 0;

function row(
  type: MessageType,
  name: string,
  direction: MessageDirection,
  ...variants: readonly MessageVariant[]
): MessageRow {
  return { type, name, direction, whenDisconnected: variants[0]?.since === ANY, variants };
}

/**
 * All channel messages by number.
 *
 * Source: openvmm `vmbus_core/src/protocol.rs`. INITIATE_CONTACT and VERSION_RESPONSE settle the version
 * and can therefore not depend on it.
 */
export const messageTable: readonly MessageRow[] = [
  row(MessageType.offerChannel, "OFFERCHANNEL", TO_GUEST, form(v0_13, OfferChannel.SIZE)),
  row(
    MessageType.rescindChannelOffer,
    "RESCIND_CHANNELOFFER",
    TO_GUEST,
    form(v0_13, RescindChannelOffer.SIZE),
  ),
  row(MessageType.requestOffers, "REQUESTOFFERS", TO_HOST, form(v0_13, RequestOffers.SIZE)),
  row(
    MessageType.allOffersDelivered,
    "ALLOFFERS_DELIVERED",
    TO_GUEST,
    form(v0_13, AllOffersDelivered.SIZE),
  ),
  row(
    MessageType.openChannel,
    "OPENCHANNEL",
    TO_HOST,
    form(v6_0, OpenChannel.SIGNAL_SIZE, { features: OpenChannel.SIGNAL_FEATURES }),
    form(v0_13, OpenChannel.SIZE),
  ),
  row(
    MessageType.openChannelResult,
    "OPENCHANNEL_RESULT",
    TO_GUEST,
    form(v0_13, OpenChannelResult.SIZE),
  ),
  row(MessageType.closeChannel, "CLOSECHANNEL", TO_HOST, form(v0_13, CloseChannel.SIZE)),
  row(MessageType.gpadlHeader, "GPADL_HEADER", TO_HOST, form(v0_13, GpadlHeader.SIZE)),
  row(MessageType.gpadlBody, "GPADL_BODY", TO_HOST, form(v0_13, GpadlBody.SIZE)),
  row(MessageType.gpadlCreated, "GPADL_CREATED", TO_GUEST, form(v0_13, GpadlCreated.SIZE)),
  row(MessageType.gpadlTeardown, "GPADL_TEARDOWN", TO_HOST, form(v0_13, GpadlTeardown.SIZE)),
  row(MessageType.gpadlTorndown, "GPADL_TORNDOWN", TO_GUEST, form(v0_13, GpadlTorndown.SIZE)),
  row(MessageType.relidReleased, "RELID_RELEASED", TO_HOST, form(v0_13, RelidReleased.SIZE)),
  row(
    MessageType.initiateContact,
    "INITIATE_CONTACT",
    TO_HOST,
    form(ANY, InitiateContact.CLIENT_ID_SIZE, { bySize: true }),
    form(ANY, InitiateContact.SIZE),
  ),
  row(
    MessageType.versionResponse,
    "VERSION_RESPONSE",
    TO_GUEST,
    form(ANY, VersionResponse.MONITOR_PAGES_SIZE, { bySize: true }),
    form(ANY, VersionResponse.FEATURES_SIZE, { bySize: true }),
    form(ANY, VersionResponse.SIZE),
  ),
  row(MessageType.unload, "UNLOAD", TO_HOST, form(v0_13, Unload.SIZE)),
  row(MessageType.unloadResponse, "UNLOAD_RESPONSE", TO_GUEST, form(v1_1, UnloadResponse.SIZE)),
  row(
    MessageType.openReservedChannel,
    "OPEN_RESERVED_CHANNEL",
    TO_HOST,
    form(v4_0, OpenReservedChannel.SIZE),
  ),
  row(
    MessageType.closeReservedChannel,
    "CLOSE_RESERVED_CHANNEL",
    TO_HOST,
    form(ANY, CloseReservedChannel.SIZE),
  ),
  row(
    MessageType.closeReservedResponse,
    "CLOSE_RESERVED_RESPONSE",
    TO_GUEST,
    form(v4_0, CloseReservedResponse.SIZE),
  ),
  row(
    MessageType.tlConnectRequest,
    "TL_CONNECT_REQUEST",
    TO_HOST,
    form(TlConnectRequest.SILO_SINCE, TlConnectRequest.SILO_SIZE, { bySize: true }),
    form(v4_0, TlConnectRequest.SIZE),
  ),
  row(MessageType.modifyChannel, "MODIFYCHANNEL", TO_HOST, form(v4_1, ModifyChannel.SIZE)),
  row(MessageType.tlConnectResult, "TL_CONNECT_RESULT", TO_GUEST, form(v4_1, TlConnectResult.SIZE)),
  row(
    MessageType.modifyChannelResponse,
    "MODIFYCHANNEL_RESPONSE",
    TO_GUEST,
    form(v5_3, ModifyChannelResponse.SIZE),
  ),
  row(
    MessageType.modifyConnection,
    "MODIFY_CONNECTION",
    TO_HOST,
    form(v6_0, ModifyConnection.SIZE, { features: Feature.modifyConnection }),
  ),
  row(
    MessageType.modifyConnectionResponse,
    "MODIFY_CONNECTION_RESPONSE",
    TO_GUEST,
    form(v6_0, ModifyConnectionResponse.SIZE, { features: Feature.modifyConnection }),
  ),
  row(
    MessageType.pause,
    "PAUSE",
    TO_HOST,
    form(v6_0, Pause.SIZE, { features: Feature.pauseResume }),
  ),
  row(
    MessageType.pauseResponse,
    "PAUSE_RESPONSE",
    TO_GUEST,
    form(v6_0, PauseResponse.SIZE, { features: Feature.pauseResume }),
  ),
  row(
    MessageType.resume,
    "RESUME",
    TO_HOST,
    form(v6_0, Resume.SIZE, { features: Feature.pauseResume }),
  ),
];

const byType: ReadonlyMap<number, MessageRow> = new Map(messageTable.map((m) => [m.type, m]));

/** The message with this number; undefined if there is none. */
export function lookupMessage(type: MessageType): MessageRow | undefined {
  return byType.get(type);
}

/** Outcome of `parseHeader`; everything but "ok" is the sender's mistake. */
export type MessageOutcome =
  | {
      readonly kind: "ok";
      readonly type: MessageType;
      readonly message: MessageRow;
      readonly variant: MessageVariant;
    }
  | { readonly kind: "unknown-type"; readonly type: MessageType }
  | {
      /** `not-negotiated`: version or features lack it, or nothing is negotiated. */
      readonly kind: "wrong-direction" | "not-negotiated";
      readonly type: MessageType;
      readonly message: MessageRow;
    }
  | {
      readonly kind: "too-short";
      /** Undefined if not even the header is there. */
      readonly message: MessageRow | undefined;
      /** Bytes that it must have. */
      readonly size: number;
    };

/**
 * Decides what a received message is, and whether it may be received at all.
 *
 * @param bytes - The message: `payloadSize` bytes of a slot or of a hypercall input, in private memory.
 * @param direction - The way it came.
 * @param negotiated - Undefined while not connected.
 */
export function parseHeader(
  bytes: Uint8Array,
  direction: MessageDirection,
  negotiated: Negotiated | undefined,
): MessageOutcome {
  const header = MessageHeader.parse(bytes);
  if (header === undefined)
    return { kind: "too-short", message: undefined, size: MessageHeader.SIZE };
  const { type } = header;
  const message = lookupMessage(type);
  if (message === undefined) return { kind: "unknown-type", type };
  if (message.direction !== direction) return { kind: "wrong-direction", type, message };
  const variant = message.variants.find(
    (candidate) =>
      (candidate.since === ANY ||
        (negotiated !== undefined &&
          negotiated.version >= candidate.since &&
          (candidate.features === 0 || (negotiated.features & candidate.features) !== 0))) &&
      (!candidate.bySize || bytes.byteLength >= candidate.size),
  );
  if (variant === undefined) return { kind: "not-negotiated", type, message };
  if (bytes.byteLength < variant.size) return { kind: "too-short", message, size: variant.size };
  return { kind: "ok", type, message, variant };
}
