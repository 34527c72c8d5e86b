import { NIL_GUID, type Guid } from "./guid.js";
import { ConnectionId } from "./hypercalls.js";
import { VMBUS_SINT } from "./hypervisor.js";
import { MessageType, message } from "./message-record.js";
import { flag8, gpa, guid, u32, u8, type RecordOf } from "./record.js";
import { Feature, versionHas, type ProtocolVersion } from "./versions.js";

/** What VERSION_RESPONSE and MODIFY_CONNECTION_RESPONSE say of the connection. */
export const ConnectionState = {
  ok: 0,
  lowResources: 1,
  unknownFailure: 2,
} as const;
/** Open enumeration: any u8 may arrive. */
export type ConnectionState =
  (typeof ConnectionState)[keyof typeof ConnectionState] | (number & {});

const contactFields = {
  version: u32(8),
  targetVp: u32(12),
  parentToChildMonitorGpa: gpa(24),
  childToParentMonitorGpa: gpa(32),
};
const targetInfoFields = { ...contactFields, sint: u8(16), vtl: u8(17), features: u32(20) };
/** INITIATE_CONTACT below 5.0. */
export const InterruptPageContact = message(MessageType.initiateContact, {
  ...contactFields,
  interruptPageGpa: gpa(16),
});
/** INITIATE_CONTACT from 5.0 on. */
export const TargetInfoContact = message(MessageType.initiateContact, targetInfoFields);
/** INITIATE_CONTACT from 6.0 on with `Feature.clientId`. */
export const ClientIdContact = message(MessageType.initiateContact, {
  ...targetInfoFields,
  clientId: guid(40),
});

/** INITIATE_CONTACT (14). What a version does not carry reads as the value given here. */
export interface InitiateContact {
  readonly version: ProtocolVersion;
  /** vCPU that shall get the host's messages; a host honours it from 3.0 on. */
  readonly targetVp: number;
  /** Below 5.0; else 0. */
  readonly interruptPageGpa: number;
  /** From 5.0 on; else 2. */
  readonly sint: number;
  /** Virtual trust level, from 5.1 on; else 0. */
  readonly vtl: number;
  /** `Feature` bits that the guest asks for, from 6.0 on; else 0. */
  readonly features: number;
  /** Both monitor pages are given or neither (0). */
  readonly parentToChildMonitorGpa: number;
  readonly childToParentMonitorGpa: number;
  /** With `Feature.clientId`; else nil. */
  readonly clientId: Guid;
}
export const InitiateContact = {
  /** Least bytes. */
  SIZE: InterruptPageContact.SIZE,
  /** Bytes with `Feature.clientId`. */
  CLIENT_ID_SIZE: ClientIdContact.SIZE,

  /** Undefined if bytes are missing, also those of a client id that the features announce. */
  parse(bytes: Uint8Array): InitiateContact | undefined {
    const contact = InterruptPageContact.parse(bytes);
    if (contact === undefined) return undefined;
    const absent = { sint: VMBUS_SINT, vtl: 0, features: 0, clientId: NIL_GUID };
    if (!versionHas(contact.version, "targetInfo")) return { ...contact, ...absent };
    const target = TargetInfoContact.parse(bytes);
    if (target === undefined) return undefined;
    const features = versionHas(contact.version, "featureFlags") ? target.features : 0;
    const named = (features & Feature.clientId) !== 0 ? ClientIdContact.parse(bytes) : target;
    if (named === undefined) return undefined;
    return {
      ...absent,
      ...named,
      interruptPageGpa: 0,
      vtl: versionHas(contact.version, "trustLevel") ? target.vtl : 0,
      features,
    };
  },

  /** Emits the fields that the version carries. Throws a RangeError if a value does not fit. */
  emit(contact: InitiateContact): Uint8Array<ArrayBuffer> {
    if (!versionHas(contact.version, "targetInfo")) return InterruptPageContact.emit(contact);
    const target = {
      ...contact,
      vtl: versionHas(contact.version, "trustLevel") ? contact.vtl : 0,
      features: versionHas(contact.version, "featureFlags") ? contact.features : 0,
    };
    return (target.features & Feature.clientId) !== 0
      ? ClientIdContact.emit(target)
      : TargetInfoContact.emit(target);
  },
} as const;

const responseFields = {
  supported: flag8(8),
  connectionState: u8(9),
  selectedVersionOrConnectionId: u32(12),
};
/** VERSION_RESPONSE below 6.0, and a refusal in any version. */
export const ShortResponse = message(MessageType.versionResponse, responseFields);
/** VERSION_RESPONSE from 6.0 on. */
export const FeaturesResponse = message(MessageType.versionResponse, {
  ...responseFields,
  features: u32(16),
});
/** VERSION_RESPONSE from 6.0 on with `Feature.hostMonitorPages`. */
export const MonitorPagesResponse = message(MessageType.versionResponse, {
  ...responseFields,
  features: u32(16),
  parentToChildMonitorGpa: gpa(24),
  childToParentMonitorGpa: gpa(32),
});

/** VERSION_RESPONSE (15). What a version does not carry reads as 0. */
export interface VersionResponse {
  /** Not enough to be connected: `connectionState` must be `ok` as well. */
  readonly supported: boolean;
  /** From 2.4 on. */
  readonly connectionState: ConnectionState;
  /** The version below 5.0, the connection for later messages from 5.0 on. */
  readonly selectedVersionOrConnectionId: number;
  /** Granted `Feature` bits, from 6.0 on. */
  readonly features: number;
  /** With `Feature.hostMonitorPages`; parent to child may be 0 even then. */
  readonly parentToChildMonitorGpa: number;
  readonly childToParentMonitorGpa: number;
}
export const VersionResponse = {
  /** Least bytes. */
  SIZE: ShortResponse.SIZE,
  /** Bytes from 6.0 on if the version is supported. */
  FEATURES_SIZE: FeaturesResponse.SIZE,
  /** Bytes with `Feature.hostMonitorPages`. */
  MONITOR_PAGES_SIZE: MonitorPagesResponse.SIZE,

  /**
   * Undefined if bytes are missing, also those of monitor pages that the features announce.
   * @param version - The version that was asked for: the host may append anything below 6.0.
   */
  parse(bytes: Uint8Array, version: ProtocolVersion): VersionResponse | undefined {
    const response = ShortResponse.parse(bytes);
    if (response === undefined) return undefined;
    const absent = { features: 0, parentToChildMonitorGpa: 0, childToParentMonitorGpa: 0 };
    if (!response.supported || !versionHas(version, "featureFlags"))
      return { ...response, ...absent };
    const granted = FeaturesResponse.parse(bytes);
    if (granted === undefined) return { ...response, ...absent };
    return (granted.features & Feature.hostMonitorPages) !== 0
      ? MonitorPagesResponse.parse(bytes)
      : { ...absent, ...granted };
  },

  /** Emits the form that belongs to the version asked for; an unsupported one is answered with zeros. */
  emit(response: VersionResponse, version: ProtocolVersion): Uint8Array<ArrayBuffer> {
    if (!response.supported)
      return ShortResponse.emit({
        supported: false,
        connectionState: 0,
        selectedVersionOrConnectionId: 0,
      });
    if (!versionHas(version, "featureFlags")) return ShortResponse.emit(response);
    return (response.features & Feature.hostMonitorPages) !== 0
      ? MonitorPagesResponse.emit(response)
      : FeaturesResponse.emit(response);
  },
} as const;

/** The connection on which a guest posts INITIATE_CONTACT for this version. */
export function contactConnectionId(version: ProtocolVersion): number {
  return versionHas(version, "namedMessageConnection")
    ? ConnectionId.multiclientMessage
    : ConnectionId.message;
}

/** The connection on which a guest posts everything after the response to this version. */
export function messageConnectionId(version: ProtocolVersion, response: VersionResponse): number {
  return versionHas(version, "namedMessageConnection")
    ? response.selectedVersionOrConnectionId
    : ConnectionId.message;
}

/** UNLOAD (16): header only. */
export const Unload = message(MessageType.unload, {});

/** UNLOAD_RESPONSE (17): header only. */
export const UnloadResponse = message(MessageType.unloadResponse, {});

/** MODIFY_CONNECTION (25): new monitor pages, both or neither (0). */
export const ModifyConnection = message(MessageType.modifyConnection, {
  parentToChildMonitorGpa: gpa(8),
  childToParentMonitorGpa: gpa(16),
});
export type ModifyConnection = RecordOf<typeof ModifyConnection.fields>;

/** MODIFY_CONNECTION_RESPONSE (26). */
export const ModifyConnectionResponse = message(MessageType.modifyConnectionResponse, {
  /** A `ConnectionState`. */
  connectionState: u8(8),
});
export type ModifyConnectionResponse = RecordOf<typeof ModifyConnectionResponse.fields>;

/** PAUSE (27): header only. Until RESUME the host accepts only RESUME, UNLOAD and INITIATE_CONTACT. */
export const Pause = message(MessageType.pause, {});

/** PAUSE_RESPONSE (28): header only. */
export const PauseResponse = message(MessageType.pauseResponse, {});

/** RESUME (29): header only. */
export const Resume = message(MessageType.resume, {});
