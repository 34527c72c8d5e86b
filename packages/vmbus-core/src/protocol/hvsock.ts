import { NIL_GUID, type Guid } from "./guid.js";
import { MessageType, message } from "./message-record.js";
import { flag8, guid, record, u32, type RecordOf } from "./record.js";
import { ProtocolVersion } from "./versions.js";

/** User data of an offer that is a connection of hvsock. */
export const HvsockUserData = record(
  {
    /** A `PipeType`. */
    pipeType: u32(0),
    /** The host connects to the guest. */
    hostInitiated: flag8(4),
    forContainer: flag8(5),
    /** 1 from Windows 10 RS5 on. */
    version: u32(6),
    siloId: guid(10),
  },
  28,
);
export type HvsockUserData = RecordOf<typeof HvsockUserData.fields>;

const connectFields = { endpointId: guid(8), serviceId: guid(24) };
/** TL_CONNECT_REQUEST below 5.2. */
export const ShortConnect = message(MessageType.tlConnectRequest, connectFields);
/** TL_CONNECT_REQUEST from 5.2 on. */
export const SiloConnect = message(MessageType.tlConnectRequest, {
  ...connectFields,
  siloId: guid(40),
});

/** TL_CONNECT_REQUEST (21): success is seen as an offer. */
export interface TlConnectRequest {
  readonly endpointId: Guid;
  readonly serviceId: Guid;
  /** From 5.2 on; else nil. */
  readonly siloId: Guid;
}
export const TlConnectRequest = {
  /** Least bytes. */
  SIZE: ShortConnect.SIZE,
  /** Bytes with a silo id. */
  SILO_SIZE: SiloConnect.SIZE,
  /** First version with a silo id. */
  SILO_SINCE: ProtocolVersion.v5_2,

  /** Undefined if bytes are missing; a guest may send the short form in any version. */
  parse(bytes: Uint8Array, version: ProtocolVersion): TlConnectRequest | undefined {
    if (version >= TlConnectRequest.SILO_SINCE && bytes.byteLength >= SiloConnect.SIZE)
      return SiloConnect.parse(bytes);
    const request = ShortConnect.parse(bytes);
    return request && { ...request, siloId: NIL_GUID };
  },

  /** Emits the form of the version. */
  emit(request: TlConnectRequest, version: ProtocolVersion): Uint8Array<ArrayBuffer> {
    return version >= TlConnectRequest.SILO_SINCE
      ? SiloConnect.emit(request)
      : ShortConnect.emit(request);
  },
} as const;

/** TL_CONNECT_RESULT (23): sent for failures only. */
export const TlConnectResult = message(MessageType.tlConnectResult, {
  endpointId: guid(8),
  serviceId: guid(24),
  /** NTSTATUS. */
  status: u32(40),
});
export type TlConnectResult = RecordOf<typeof TlConnectResult.fields>;

/** The service that stands for a port: its eight hexadecimal digits before a fixed rest. */
export function hvsockServiceId(port: number): Guid {
  return `${port.toString(16).padStart(8, "0")}-facb-11e6-bd58-64006a7986d3`;
}
