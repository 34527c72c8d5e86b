import { parseIpText, writeIpText, type AdapterSettings } from "./ip-message.js";
import { KvpLimit, KvpOperation } from "./operations.js";
import type { KvpItem } from "./pool-record.js";
import { readUtf8Field, writeUtf8 } from "./text.js";
import { DeleteLayout, EnumerateLayout, IpTextLayout, ValueLayout } from "./value-layout.js";

// Messages between the kernel and its daemon (`hv_kvp_msg`). A request begins with the operation and the pool; the
// answer is the same message with a status over them. Texts are UTF-8, what follows the header lies at 4.

/** What differs between the devices of FreeBSD and of Linux. */
export interface DeviceDialect {
  readonly name: "freebsd" | "linux";
  /** Bytes of every message. */
  readonly messageBytes: number;
  /** Operation by which the daemon registers. */
  readonly registerOperation: number;
  /** The kernel answers the registration with the version of its interface. */
  readonly answersRegistration: boolean;
  /** How long the daemon may take for a request. */
  readonly timeoutMs: number;
  /** A request fails as soon as the daemon that has it closes the device; else when its time is over. */
  readonly failsOnClose: boolean;
  /** Where the kernel puts the device, and where the system keeps its pools. */
  readonly devicePath: string;
  readonly poolDirectory: string;
}

/** FreeBSD's `/dev/hv_kvp_dev`: everything packed. */
export const freebsdDialect: DeviceDialect = {
  name: "freebsd",
  messageBytes: 7430,
  registerOperation: 4,
  answersRegistration: false,
  timeoutMs: 5000,
  failsOnClose: false,
  devicePath: "/dev/hv_kvp_dev",
  poolDirectory: "/var/db/hyperv/pool",
};

/** Linux's `/dev/vmbus/hv_kvp`: the union behind the header is aligned to 4. */
export const linuxDialect: DeviceDialect = {
  name: "linux",
  messageBytes: 7432,
  registerOperation: 100,
  answersRegistration: true,
  timeoutMs: 30_000,
  failsOnClose: true,
  devicePath: "/dev/vmbus/hv_kvp",
  poolDirectory: "/var/lib/hyperv",
};

export const deviceDialects: readonly DeviceDialect[] = [freebsdDialect, linuxDialect];

/** By which Linux's first daemons register: they set no addresses, and report an end by an empty key. */
export const LEGACY_REGISTER = 4;

/** What Linux's kernel calls its side of the device. */
export const LINUX_INTERFACE_VERSION = "3.1";

const CONTENT = 4;
const encoder = new TextEncoder();

/** What the kernel hands to its daemon; values as text, their types are not passed on. */
export type DeviceRequest =
  | { readonly operation: 0; readonly pool: number; readonly key: string }
  | { readonly operation: 1; readonly pool: number; readonly key: string; readonly value: string }
  | { readonly operation: 2; readonly pool: number; readonly key: string }
  | { readonly operation: 3; readonly pool: number; readonly index: number }
  | { readonly operation: 4; readonly adapterId: string }
  | { readonly operation: 5; readonly adapter: AdapterSettings };

/** A message without content: a registration, or the kernel's answer to it. */
export function emitRegistration(
  dialect: DeviceDialect,
  operation: number,
  version = "",
): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(dialect.messageBytes);
  message[0] = operation;
  writeUtf8(message.subarray(CONTENT, CONTENT + 512), version);
  return message;
}

/** The version in the kernel's answer to a registration. */
export function parseRegistration(message: Uint8Array): string {
  return readUtf8Field(message.subarray(CONTENT, CONTENT + 512));
}

/** Writes a request for the daemon, whose texts have been checked. */
export function emitDeviceRequest(
  dialect: DeviceDialect,
  request: DeviceRequest,
): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(dialect.messageBytes);
  message[0] = request.operation;
  const content = message.subarray(CONTENT);
  const view = new DataView(content.buffer, content.byteOffset);
  if ("pool" in request) message[1] = request.pool;
  switch (request.operation) {
    case KvpOperation.enumerate:
      view.setUint32(EnumerateLayout.index, request.index, true);
      break;
    case KvpOperation.delete: {
      const { keyBytes, key } = DeleteLayout;
      view.setUint32(keyBytes, putText(content, key, KvpLimit.keyBytes, request.key), true);
      break;
    }
    case KvpOperation.get:
      putItem(content, request.key, undefined);
      // Stock daemons copy as many bytes of the value as this says, and so none if it is left 0.
      view.setUint32(ValueLayout.valueBytes, KvpLimit.valueBytes, true);
      break;
    case KvpOperation.set:
      putItem(content, request.key, request.value);
      break;
    case KvpOperation.getIpInfo:
      putText(content, IpTextLayout.adapterId, IpTextLayout.family, request.adapterId);
      break;
    case KvpOperation.setIpInfo:
      writeIpText(content, request.adapter, writeUtf8, 1);
      break;
  }
  return message;
}

/** What a daemon finds wrong with a message: no such operation, an address that is none, or a text without end. */
export type DeviceFlaw = "operation" | "address" | "text";

/** Parses a request, as the daemon has it. Sizes are not relied on: texts end at their NUL. */
export function parseDeviceRequest(message: Uint8Array): DeviceRequest | DeviceFlaw {
  const content = message.subarray(CONTENT);
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const operation = message[0]!;
  const pool = message[1]!;
  const keyAt = (at: number) => readText(content, at, KvpLimit.keyBytes);
  switch (operation) {
    case KvpOperation.enumerate:
      return { operation, pool, index: view.getUint32(EnumerateLayout.index, true) };
    case KvpOperation.get:
    case KvpOperation.delete: {
      const key = keyAt(operation === KvpOperation.get ? ValueLayout.key : DeleteLayout.key);
      return key === undefined ? "text" : { operation, pool, key };
    }
    case KvpOperation.set: {
      const key = keyAt(ValueLayout.key);
      const value = readText(content, ValueLayout.value, KvpLimit.valueBytes);
      return key === undefined || value === undefined ? "text" : { operation, pool, key, value };
    }
    case KvpOperation.getIpInfo: {
      const adapterId = readText(content, IpTextLayout.adapterId, IpTextLayout.family);
      return adapterId === undefined ? "text" : { operation, adapterId };
    }
    case KvpOperation.setIpInfo: {
      const adapter = parseIpText(content, terminated);
      return adapter === undefined ? "address" : { operation, adapter };
    }
    default:
      return "operation";
  }
}

/** What a daemon found out, for the answer. */
export interface DeviceAnswer {
  /** HRESULT, passed on to the host. */
  readonly status: number;
  /** Of GET and an enumeration. */
  readonly item?: KvpItem | undefined;
  /** Of GET_IP_INFO. */
  readonly adapter?: AdapterSettings | undefined;
}

/** The answer to a request: its bytes, with the status over the header, and what was found. */
export function emitDeviceAnswer(request: Uint8Array, answer: DeviceAnswer): Uint8Array {
  const message = request.slice();
  const operation = message[0];
  const content = message.subarray(CONTENT);
  new DataView(message.buffer, message.byteOffset).setUint32(0, answer.status, true);
  if (answer.item !== undefined) {
    const at = operation === KvpOperation.enumerate ? EnumerateLayout.value : 0;
    putItem(content.subarray(at), answer.item.key, answer.item.value);
  }
  if (answer.adapter !== undefined) writeIpText(content, answer.adapter, writeUtf8, 1);
  return message;
}

/** The status of an answer. */
export function deviceStatus(message: Uint8Array): number {
  return new DataView(message.buffer, message.byteOffset, message.byteLength).getUint32(0, true);
}

/** The item in the answer to a GET or an enumeration; what the daemon wrote as no UTF-8 becomes U+FFFD. */
export function parseDeviceItem(message: Uint8Array, operation: KvpOperation): KvpItem {
  const at = CONTENT + (operation === KvpOperation.enumerate ? EnumerateLayout.value : 0);
  const content = message.subarray(at, at + ValueLayout.SIZE);
  return {
    key: readUtf8Field(content.subarray(ValueLayout.key, ValueLayout.value)),
    value: readUtf8Field(content.subarray(ValueLayout.value)),
  };
}

/** The settings in the answer to GET_IP_INFO; undefined if they do not parse. Daemons may name the zone of an address. */
export function parseDeviceSettings(message: Uint8Array): AdapterSettings | undefined {
  return parseIpText(message.subarray(CONTENT), (field) =>
    terminated(field)?.replace(/%[^;]*/g, ""),
  );
}

const terminated = (field: Uint8Array): string | undefined =>
  field.includes(0) ? readUtf8Field(field) : undefined;

function readText(content: Uint8Array, at: number, width: number): string | undefined {
  return terminated(content.subarray(at, at + width));
}

/** Whatever programs have put into a pool: what does not fit is cut between two characters. */
function putText(content: Uint8Array, at: number, width: number, text: string): number {
  const field = content.subarray(at, at + width).fill(0);
  return encoder.encodeInto(text, field.subarray(0, width - 1)).written + 1;
}

function putItem(content: Uint8Array, key: string, value: string | undefined): void {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const { keyBytes, valueBytes } = ValueLayout;
  view.setUint32(keyBytes, putText(content, ValueLayout.key, KvpLimit.keyBytes, key), true);
  if (value === undefined) return;
  const written = putText(content, ValueLayout.value, KvpLimit.valueBytes, value);
  view.setUint32(valueBytes, written, true);
}
