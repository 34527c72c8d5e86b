import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  ConnectionId,
  ConnectionState,
  Feature,
  InterruptPage,
  PAGE_SIZE,
  VMBUS_SINT,
  VersionResponse,
  formatVersion,
  negotiationOrder,
  ProtocolVersion,
  versionHas,
  type Guid,
  type InitiateContact,
} from "@hyperv-is/vmbus-core/protocol";

/** Features of 6.0 that the host has. Host pages are granted only if the host has some. */
export const SUPPORTED_FEATURES =
  Feature.guestSignalParameters |
  Feature.interruptRedirection |
  Feature.modifyConnection |
  Feature.clientId |
  Feature.pauseResume;

/** Both monitor pages, by GPA. */
export interface MonitorPages {
  readonly parentToChild: number;
  readonly childToParent: number;
}

/** Which host this is. */
export interface BusOptions {
  /** Versions that the host speaks; all up to 6.0 unless given. */
  readonly versions?: readonly ProtocolVersion[];
  /** `Feature` bits that it grants at most, from 6.0 on. */
  readonly features?: number;
  /**
   * Connection that VERSION_RESPONSE names from 5.0 on; `ConnectionId.message` unless given, as OpenVMM
   * answers. A guest must take it as it comes.
   */
  readonly messageConnectionId?: number;
  /** Monitor pages in guest memory that the host set aside, for guests that ask for `Feature.hostMonitorPages`. */
  readonly hostMonitorPages?: MonitorPages;
}

/** An established connection. */
export interface ConnectionInfo {
  readonly version: ProtocolVersion;
  /** Granted `Feature` bits. */
  readonly features: number;
  /** Processor that gets the host's messages. */
  readonly targetVp: number;
  /** GPA of the interrupt page, below 2.4 and if the guest gave one. */
  readonly interruptPage: number | undefined;
  readonly monitorPages: MonitorPages | undefined;
  /** True if the pages are the host's own. */
  readonly hasHostPages: boolean;
  readonly clientId: Guid;
  /** Connection for messages. */
  readonly messageConnectionId: number;
}

/** INITIATE_CONTACT, and how it came. */
export interface Contact {
  readonly message: InitiateContact;
  /** True if it came on `ConnectionId.multiclientMessage`; otherwise SINT and trust level do not count. */
  readonly isMulticlient: boolean;
}

/** What becomes of a contact. The response is for the processor that the contact names. */
export type Negotiation = {
  readonly response: Uint8Array;
  readonly target: { readonly vp: number; readonly sint: number };
  /** What the guest did wrong. */
  readonly violation?: { readonly rule: string; readonly detail: string };
} & (
  | { readonly kind: "accepted"; readonly info: ConnectionInfo }
  /** The guest is answered, and not connected. */
  | { readonly kind: "refused" }
);

/** What negotiation needs to know of the machine. */
export interface NegotiationContext {
  readonly options: BusOptions;
  readonly memory: GuestMemory;
  readonly vpCount: number;
}

/** Where the answer to a contact goes. */
export function contactTarget({ message, isMulticlient }: Contact): {
  readonly vp: number;
  readonly sint: number;
} {
  return {
    vp: versionHas(message.version, "messageTargetVp") ? message.targetVp : 0,
    sint: isMulticlient ? message.sint : VMBUS_SINT,
  };
}

/** True if the contact is for a bus that this host does not have. */
export function isMisdirected({ message, isMulticlient }: Contact): boolean {
  return isMulticlient && (message.sint !== VMBUS_SINT || message.vtl !== 0);
}

/** The answer to a version that the host does not have: it says nothing else. */
export function unsupportedResponse(version: ProtocolVersion): Uint8Array {
  return response(version, { supported: false });
}

/**
 * Decides on a contact, once everything of an earlier connection is released.
 *
 * Rules: sections 2.2 and 2.4 of the bus reference, after OpenVMM's `initiate_contact`. A version below
 * 2.4 cannot be told of a failure, and is refused as unsupported instead.
 *
 * @param isRefused - the fault plan's word on a version that the host has.
 */
export function negotiate(
  contact: Contact,
  { options, memory, vpCount }: NegotiationContext,
  isRefused: (version: ProtocolVersion) => boolean,
): Negotiation {
  const { message } = contact;
  const { version } = message;
  const target = contactTarget(contact);
  const versions = options.versions ?? negotiationOrder(ProtocolVersion.v6_0);
  if (!versions.includes(version) || isRefused(version))
    return { kind: "refused", target, response: unsupportedResponse(version) };

  const { hostMonitorPages } = options;
  const named = versionHas(version, "namedMessageConnection");
  const hasHostPages =
    hostMonitorPages !== undefined &&
    versionHas(version, "featureFlags") &&
    (message.features & Feature.hostMonitorPages) !== 0;
  const supported = (options.features ?? SUPPORTED_FEATURES) & ~Feature.hostMonitorPages;
  const features = (message.features & supported) | (hasHostPages ? Feature.hostMonitorPages : 0);
  const messageConnectionId = named
    ? (options.messageConnectionId ?? ConnectionId.message)
    : ConnectionId.message;
  const supportedResponse = (connectionState: ConnectionState): Uint8Array =>
    response(version, {
      supported: true,
      connectionState,
      selectedVersionOrConnectionId: named ? messageConnectionId : version,
      features,
      ...(hasHostPages && {
        parentToChildMonitorGpa: hostMonitorPages.parentToChild,
        childToParentMonitorGpa: hostMonitorPages.childToParent,
      }),
    });
  const broken = (rule: string, detail: string): Negotiation => ({
    kind: "refused",
    // A processor that does not exist cannot be told anything.
    target: target.vp < vpCount ? target : { ...target, vp: 0 },
    response: versionHas(version, "connectionState")
      ? supportedResponse(ConnectionState.unknownFailure)
      : unsupportedResponse(version),
    violation: { rule, detail: `version ${formatVersion(version)}: ${detail}` },
  });

  if (target.vp >= vpCount)
    return broken("contact-target-vp", `there is no virtual processor ${target.vp}`);
  const guestPages = monitorPagesOf(
    message.parentToChildMonitorGpa,
    message.childToParentMonitorGpa,
    memory,
  );
  if (guestPages === "invalid")
    return broken("contact-monitor-pages", "both monitor pages or neither, in guest memory");
  // From 2.4 on interrupts are dedicated, and the page that the field names is of no use.
  const needsPage = !versionHas(version, "eventFlags");
  const interruptPage =
    needsPage && message.interruptPageGpa !== 0 ? message.interruptPageGpa : undefined;
  if (interruptPage !== undefined && !isPage(memory, interruptPage))
    return broken("contact-interrupt-page", "the interrupt page is not in guest memory");
  return {
    kind: "accepted",
    target,
    info: {
      version,
      features,
      targetVp: target.vp,
      interruptPage,
      monitorPages: hasHostPages ? hostMonitorPages : guestPages,
      hasHostPages,
      clientId: message.clientId,
      messageConnectionId,
    },
    response: supportedResponse(ConnectionState.ok),
    ...(needsPage &&
      interruptPage === undefined && {
        violation: {
          rule: "contact-interrupt-page",
          detail: `version ${formatVersion(version)} needs an interrupt page`,
        },
      }),
  };
}

/** Monitor pages from two addresses: none if both are 0. */
export function monitorPagesOf(
  parentToChild: number,
  childToParent: number,
  memory: GuestMemory,
): MonitorPages | undefined | "invalid" {
  if (parentToChild === 0 && childToParent === 0) return undefined;
  const given = parentToChild !== 0 && childToParent !== 0;
  return given && isPage(memory, parentToChild) && isPage(memory, childToParent)
    ? { parentToChild, childToParent }
    : "invalid";
}

/** GPA of the half of the interrupt page that the host sets; undefined without a page. */
export function receiveHalfOf({ interruptPage }: ConnectionInfo): number | undefined {
  return interruptPage === undefined ? undefined : interruptPage + InterruptPage.receive;
}

/** GPA of the half of the interrupt page that the guest sets; undefined without a page. */
export function sendHalfOf({ interruptPage }: ConnectionInfo): number | undefined {
  return interruptPage === undefined ? undefined : interruptPage + InterruptPage.send;
}

function isPage(memory: GuestMemory, address: number): boolean {
  return address % PAGE_SIZE === 0 && memory.contains(address, PAGE_SIZE);
}

function response(version: ProtocolVersion, fields: Partial<VersionResponse>): Uint8Array {
  return VersionResponse.emit(
    {
      supported: false,
      connectionState: ConnectionState.ok,
      selectedVersionOrConnectionId: 0,
      features: 0,
      parentToChildMonitorGpa: 0,
      childToParentMonitorGpa: 0,
      ...fields,
    },
    version,
  );
}
