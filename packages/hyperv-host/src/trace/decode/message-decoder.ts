import {
  AllOffersDelivered,
  CloseChannel,
  CloseReservedChannel,
  CloseReservedResponse,
  ConnectionState,
  Feature,
  GpadlBody,
  GpadlCreated,
  GpadlHeader,
  GpadlTeardown,
  GpadlTorndown,
  GpaRangeHeader,
  InitiateContact,
  MessageHeader,
  MessageType,
  ModifyChannel,
  ModifyChannelResponse,
  ModifyConnection,
  ModifyConnectionResponse,
  NIL_GUID,
  NtStatus,
  OfferChannel,
  OfferFlag,
  OpenChannel,
  OpenChannelResult,
  OpenReservedChannel,
  PFN_SIZE,
  Pause,
  PauseResponse,
  RelidReleased,
  RequestOffers,
  RescindChannelOffer,
  Resume,
  TlConnectRequest,
  TlConnectResult,
  Unload,
  UnloadResponse,
  VP_INTERRUPTS_DISABLED,
  VersionResponse,
  formatVersion,
  parseHeader,
  type Guid,
  type MessageDirection,
  type Negotiated,
} from "@hyperv-is/vmbus-core/protocol";
import type { Decoded, DecodedFields, DecodedValue } from "./decoded.js";
import { className, constantName, flagNames, hex, hexBytes } from "./protocol-names.js";

/** A message as its record has it. */
export type ParsedMessage = Readonly<Record<string, unknown>>;

/** Reads a message by what was negotiated, or is being negotiated. */
type Parser = (bytes: Uint8Array, negotiated: Negotiated) => object | undefined;

const parsers: Readonly<Record<number, Parser>> = {
  [MessageType.offerChannel]: (bytes) => OfferChannel.parse(bytes),
  [MessageType.rescindChannelOffer]: (bytes) => RescindChannelOffer.parse(bytes),
  [MessageType.requestOffers]: (bytes) => RequestOffers.parse(bytes),
  [MessageType.allOffersDelivered]: (bytes) => AllOffersDelivered.parse(bytes),
  [MessageType.openChannel]: (bytes, { features }) => OpenChannel.parse(bytes, features),
  [MessageType.openChannelResult]: (bytes) => OpenChannelResult.parse(bytes),
  [MessageType.closeChannel]: (bytes) => CloseChannel.parse(bytes),
  [MessageType.gpadlHeader]: (bytes) => GpadlHeader.parse(bytes),
  [MessageType.gpadlBody]: (bytes) => GpadlBody.parse(bytes),
  [MessageType.gpadlCreated]: (bytes) => GpadlCreated.parse(bytes),
  [MessageType.gpadlTeardown]: (bytes) => GpadlTeardown.parse(bytes),
  [MessageType.gpadlTorndown]: (bytes) => GpadlTorndown.parse(bytes),
  [MessageType.relidReleased]: (bytes) => RelidReleased.parse(bytes),
  [MessageType.initiateContact]: (bytes) => InitiateContact.parse(bytes),
  [MessageType.versionResponse]: (bytes, { version }) => VersionResponse.parse(bytes, version),
  [MessageType.unload]: (bytes) => Unload.parse(bytes),
  [MessageType.unloadResponse]: (bytes) => UnloadResponse.parse(bytes),
  [MessageType.openReservedChannel]: (bytes) => OpenReservedChannel.parse(bytes),
  [MessageType.closeReservedChannel]: (bytes) => CloseReservedChannel.parse(bytes),
  [MessageType.closeReservedResponse]: (bytes) => CloseReservedResponse.parse(bytes),
  [MessageType.tlConnectRequest]: (bytes, { version }) => TlConnectRequest.parse(bytes, version),
  [MessageType.modifyChannel]: (bytes) => ModifyChannel.parse(bytes),
  [MessageType.tlConnectResult]: (bytes) => TlConnectResult.parse(bytes),
  [MessageType.modifyChannelResponse]: (bytes) => ModifyChannelResponse.parse(bytes),
  [MessageType.modifyConnection]: (bytes) => ModifyConnection.parse(bytes),
  [MessageType.modifyConnectionResponse]: (bytes) => ModifyConnectionResponse.parse(bytes),
  [MessageType.pause]: (bytes) => Pause.parse(bytes),
  [MessageType.pauseResponse]: (bytes) => PauseResponse.parse(bytes),
  [MessageType.resume]: (bytes) => Resume.parse(bytes),
};

/** How fields are shown that are no plain numbers. */
const formats: Readonly<Record<string, (value: never) => DecodedValue>> = {
  version: formatVersion,
  features: (bits: number) => flagNames(Feature, bits),
  flags: (bits: number) => flagNames(OfferFlag, bits),
  status: (status: number) => constantName(NtStatus, status),
  connectionState: (state: number) => constantName(ConnectionState, state),
  classId: (id: Guid) => className(id) ?? id,
  targetVp: (vp: number) => (vp === VP_INTERRUPTS_DISABLED ? "none" : vp),
  selectedVersionOrConnectionId: hex,
  connectionId: hex,
  gpadlId: hex,
  ringGpadlId: hex,
  interruptPageGpa: hex,
  parentToChildMonitorGpa: hex,
  childToParentMonitorGpa: hex,
};

/** Fields that say nothing when they have this value: absent from the message's form, or not used. */
const idle: Readonly<Record<string, unknown>> = {
  clientId: NIL_GUID,
  siloId: NIL_GUID,
  features: 0,
  userData: "",
  interruptPageGpa: 0,
  parentToChildMonitorGpa: 0,
  childToParentMonitorGpa: 0,
};

/** The state that the messages of a connection are read in, as far as a trace shows it. */
export class MessageDecoder {
  /** What both sides have agreed on. */
  negotiated: Negotiated | undefined;
  /** Version that the last INITIATE_CONTACT asked for. */
  #requested = 0;

  /** Reads a message as a record; undefined if it is none that may be received. Follows the connection. */
  parse(bytes: Uint8Array, direction: MessageDirection): ParsedMessage | undefined {
    const outcome = parseHeader(bytes, direction, this.negotiated);
    if (outcome.kind !== "ok") return undefined;
    const { type } = outcome;
    const asked = { version: this.#requested, features: 0 };
    const parsed = parsers[type]?.(bytes, this.negotiated ?? asked);
    if (parsed === undefined) return undefined;
    this.#follow(type, parsed);
    return parsed as ParsedMessage;
  }

  /** Decodes a message of the trace, whatever it is. @returns It, and its record if it is one that may be received. */
  decode(bytes: Uint8Array, direction: MessageDirection): Decoded & { message?: ParsedMessage } {
    const outcome = parseHeader(bytes, direction, this.negotiated);
    const message = this.parse(bytes, direction);
    if (outcome.kind === "ok" && message !== undefined)
      return { name: outcome.message.name, fields: fieldsOf(outcome.type, message), message };
    const name =
      "message" in outcome && outcome.message !== undefined
        ? outcome.message.name
        : `MESSAGE_${MessageHeader.parse(bytes)?.type ?? "CUT"}`;
    const problem = outcome.kind === "ok" ? "too-short" : outcome.kind;
    return { name, fields: { problem, bytes: hexBytes(bytes) } };
  }

  #follow(type: MessageType, message: object): void {
    if (type === MessageType.initiateContact) {
      this.#requested = (message as InitiateContact).version;
      this.negotiated = undefined;
    } else if (type === MessageType.versionResponse) {
      const { supported, connectionState, features } = message as VersionResponse;
      if (supported && connectionState === ConnectionState.ok)
        this.negotiated = { version: this.#requested, features };
    } else if (type === MessageType.unloadResponse) this.negotiated = undefined;
  }
}

function fieldsOf(type: MessageType, message: ParsedMessage): DecodedFields {
  const fields: Record<string, DecodedValue> = {};
  for (const [name, value] of Object.entries(message)) {
    if (name === "data") fields["pages"] = pagesOf(type, message, value as Uint8Array);
    else if (name === "signal") Object.assign(fields, fieldsOf(type, value as ParsedMessage));
    else {
      const shown = value instanceof Uint8Array ? trimmedHex(value) : value;
      if (name in idle && idle[name] === shown) continue;
      const format = formats[name] as ((value: unknown) => DecodedValue) | undefined;
      fields[name] = format === undefined ? (shown as DecodedValue) : format(shown);
    }
  }
  return fields;
}

/** Page numbers of a GPADL message as runs; the bytes themselves where ranges and pages may alternate. */
function pagesOf(type: MessageType, { rangeCount }: ParsedMessage, data: Uint8Array): string {
  const isHeader = type === MessageType.gpadlHeader;
  if (isHeader && rangeCount !== 1) return hexBytes(data);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const pages: bigint[] = [];
  for (
    let at = isHeader ? GpaRangeHeader.SIZE : 0;
    at + PFN_SIZE <= data.byteLength;
    at += PFN_SIZE
  )
    pages.push(view.getBigUint64(at, true));
  return pageRuns(pages);
}

/** Page numbers as text: "0x10-0x13,0x20". */
export function pageRuns(pages: readonly bigint[]): string {
  const runs: [bigint, bigint][] = [];
  for (const page of pages) {
    const last = runs.at(-1);
    if (last?.[1] === page - 1n) last[1] = page;
    else runs.push([page, page]);
  }
  return runs
    .map(([first, last]) => (first === last ? hex(first) : `${hex(first)}-${hex(last)}`))
    .join(",");
}

/** Bytes without the zeros at their end. */
function trimmedHex(bytes: Uint8Array): string {
  let end = bytes.byteLength;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return hexBytes(bytes.subarray(0, end));
}
