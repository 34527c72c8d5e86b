import {
  KvpOperation,
  KvpPool,
  formatIpSettings,
  parseIpAnswer,
  parseItemAnswer,
  parseKvpRequest,
  type IpForm,
  type IpSettings,
} from "@hyperv-is/hv-kvp/protocol";
import {
  ApplicationState,
  IcFlag,
  IcMessageType,
  IcStatus,
  ShutdownFlag,
  TIME_SYNC_V4,
  TimeSyncFlag,
  VssFlags,
  VssFreeze,
  VssHeader,
  VssOperation,
  icVersion,
  parseHeartbeat,
  parseIcChoice,
  parseIcMessage,
  parseIcOffer,
  parseShutdown,
  parseTimeSync,
  parseTimeSync4,
  shutdownText,
  type IcMessage,
} from "@hyperv-is/hv-utils/protocol";
import { formatVersion } from "@hyperv-is/vmbus-core/protocol";
import type { Decoded, DecodedFields } from "./decoded.js";
import { constantName, flagNames, hex, hexBytes } from "./protocol-names.js";

/** Decodes a packet of an integration component: requests and answers are packets alike. */
export function decodeIntegration(payload: Uint8Array): Decoded {
  const message = parseIcMessage(payload);
  if (typeof message === "string")
    return { name: "IC", fields: { problem: message, payload: hexBytes(payload) } };
  const { type, framework, version, flags, status } = message;
  const isAnswer = (flags & IcFlag.response) !== 0;
  return {
    name: constantName(IcMessageType, type),
    fields: {
      flags: flagNames(IcFlag, flags),
      ...(framework !== 0 && { framework: formatVersion(framework) }),
      ...(version !== 0 && { version: formatVersion(version) }),
      ...(isAnswer && { status: constantName(IcStatus, status) }),
      ...bodyFields(message, isAnswer),
    },
  };
}

/** What a body says; its bytes where it is not known, and nothing where there is none. */
function bodyFields(message: IcMessage, isAnswer: boolean): DecodedFields {
  const { type, body } = message;
  if (body.byteLength === 0) return {};
  const fields = ((): DecodedFields | undefined => {
    switch (type) {
      case IcMessageType.negotiate:
        return isAnswer ? choiceFields(body) : offerFields(body);
      case IcMessageType.heartbeat:
        return heartbeatFields(body);
      case IcMessageType.kvp:
        return isAnswer ? kvpAnswerFields(message) : kvpRequestFields(message);
      case IcMessageType.shutdown:
        return shutdownFields(body);
      case IcMessageType.timeSync:
        return timeSyncFields(message);
      case IcMessageType.vss:
        return vssFields(body);
      default:
        return undefined;
    }
  })();
  return fields ?? { body: hexBytes(body) };
}

function offerFields(body: Uint8Array): DecodedFields | undefined {
  const offer = parseIcOffer(body);
  return (
    offer && {
      frameworks: offer.frameworks.map(formatVersion).join(","),
      messages: offer.messages.map(formatVersion).join(","),
    }
  );
}

function choiceFields(body: Uint8Array): DecodedFields | undefined {
  const choice = parseIcChoice(body);
  if (choice === "none") return { chosen: "none" };
  return (
    choice && {
      chosenFramework: formatVersion(choice.framework),
      chosenMessage: formatVersion(choice.message),
    }
  );
}

function heartbeatFields(body: Uint8Array): DecodedFields | undefined {
  const beat = parseHeartbeat(body);
  return (
    beat && {
      sequence: String(beat.sequence),
      state: constantName(ApplicationState, beat.applicationState),
    }
  );
}

function shutdownFields(body: Uint8Array): DecodedFields | undefined {
  const request = parseShutdown(body);
  if (request === undefined) return undefined;
  const text = shutdownText(request.message);
  return {
    shutdown: flagNames(ShutdownFlag, request.flags),
    reason: hex(request.reason),
    timeoutSeconds: request.timeoutSeconds,
    ...(text !== "" && { message: text }),
  };
}

/** Times are the host's clock, in 100 ns units since 1601, and the machine's reference counter. */
function timeSyncFields({ version, body }: IcMessage): DecodedFields | undefined {
  const told = version >= TIME_SYNC_V4 ? parseTimeSync4(body) : parseTimeSync(body);
  return (
    told && {
      parentTime: String(told.parentTime),
      ...("referenceTime" in told && { referenceTime: String(told.referenceTime) }),
      time: flagNames(TimeSyncFlag, told.flags),
    }
  );
}

function vssFields(body: Uint8Array): DecodedFields | undefined {
  const header = VssHeader.parse(body);
  if (header === undefined) return undefined;
  const operation = constantName(VssOperation, header.operation);
  if (header.operation === VssOperation.freeze) {
    const freeze = VssFreeze.parse(body);
    return { operation, ...(freeze && { luns: freeze.lunCount }) };
  }
  const told = VssFlags.parse(body);
  return { operation, ...(told && { backup: hex(told.flags) }) };
}

const formOf = ({ version }: IcMessage): IpForm => (version >= icVersion(5) ? "binary" : "text");

function kvpRequestFields(message: IcMessage): DecodedFields {
  const request = parseKvpRequest(message.body, formOf(message));
  const operation = constantName(KvpOperation, message.body[0]!);
  if (typeof request === "string")
    return { operation, problem: request, body: hexBytes(message.body) };
  switch (request.operation) {
    case KvpOperation.getIpInfo:
      return { operation, adapter: request.adapterId };
    case KvpOperation.setIpInfo:
      return { operation, adapter: request.adapterId, ...addressFields(request.settings) };
    case KvpOperation.enumerate:
      return { operation, pool: constantName(KvpPool, request.pool), index: request.index };
    default:
      return {
        operation,
        pool: constantName(KvpPool, request.pool),
        key: request.key,
        ...("value" in request && { value: String(request.value) }),
      };
  }
}

/** Guests that echo keep the request in their answers: what it says is shown where the answer has a place for it. */
function kvpAnswerFields(message: IcMessage): DecodedFields {
  const { body, status } = message;
  const operation = constantName(KvpOperation, body[0]!);
  if (status !== IcStatus.ok) return { operation };
  switch (body[0]) {
    case KvpOperation.get:
    case KvpOperation.enumerate: {
      const item = parseItemAnswer(body);
      return item === undefined
        ? { operation, problem: "item", body: hexBytes(body) }
        : { operation, key: item.key, value: String(item.value) };
    }
    case KvpOperation.getIpInfo: {
      const adapter = parseIpAnswer(body, formOf(message));
      return adapter === undefined
        ? { operation, problem: "address", body: hexBytes(body) }
        : { operation, adapter: adapter.adapterId, ...addressFields(adapter.settings) };
    }
    default:
      return { operation };
  }
}

function addressFields(settings: IpSettings): DecodedFields {
  const { dhcp, addresses, gateways, dnsServers } = formatIpSettings(settings);
  return {
    dhcp,
    addresses: addresses.join(","),
    gateways: gateways.join(","),
    dnsServers: dnsServers.join(","),
  };
}
