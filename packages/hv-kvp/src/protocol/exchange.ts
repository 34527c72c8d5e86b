import {
  parseAdapterGuid,
  parseIpBinary,
  parseMac,
  parseWireIpText,
  writeIpBinary,
  writeWireIpText,
  type AdapterSettings,
  type IpForm,
} from "./ip-message.js";
import type { IpSettings } from "./ip-settings.js";
import { KVP_POOL_COUNT, KvpLimit, KvpOperation, KvpPool, KvpValueType } from "./operations.js";
import type { KvpItem } from "./pool-record.js";
import { hasControl, parseUtf16, parseUtf16Field, utf8Bytes, writeUtf16 } from "./text.js";
import {
  DeleteLayout,
  EnumerateLayout,
  IpBinaryLayout,
  IpTextLayout,
  KvpBody,
  ValueLayout,
} from "./value-layout.js";

/** A value in a message: text, a u32 as a number, or a u64 as a bigint. Pools hold its text. */
export type KvpValue = string | number | bigint;

/** A request of the host. */
export type KvpRequest =
  | { readonly operation: 0; readonly pool: KvpPool; readonly key: string }
  | {
      readonly operation: 1;
      readonly pool: KvpPool;
      readonly key: string;
      readonly value: KvpValue;
    }
  | { readonly operation: 2; readonly pool: KvpPool; readonly key: string }
  | { readonly operation: 3; readonly pool: KvpPool; readonly index: number }
  /** @see parseMac */
  | { readonly operation: 4; readonly adapterId: string }
  /** @see parseAdapterGuid */
  | { readonly operation: 5; readonly adapterId: string; readonly settings: IpSettings };

/**
 * What is wrong with a request.
 *
 * - `length`: its body ends before what the operation uses.
 * - `operation`: there is no such operation.
 * - `pool`: there is no such pool, or it is never exchanged.
 * - `index`: past the end of every pool.
 * - `key`, `value`: the size is odd, too small or too large, the text has no NUL at its end or one before it,
 *   half a surrogate pair, or does not fit a pool's record as UTF-8; a key is empty or has a control character in
 *   it; a value's type is unknown.
 * - `adapter`: the adapter's id is no MAC address, or no GUID.
 * - `address`: an address, mask, gateway or DNS server is none, or there are not as many masks as addresses.
 */
export type KvpFlaw =
  "length" | "operation" | "pool" | "index" | "key" | "value" | "adapter" | "address";

/** Above it an index is negative to a stock daemon, which then reads in front of its pool. */
const MAX_INDEX = 0x7fff_ffff;

/** Parses and checks a request, as the guest has it. Nothing refers to `body` afterwards. */
export function parseKvpRequest(body: Uint8Array, form: IpForm): KvpRequest | KvpFlaw {
  if (body.byteLength < KvpBody.ipText) return "length";
  const operation = body[KvpBody.operation]!;
  switch (operation) {
    case KvpOperation.get:
    case KvpOperation.set:
    case KvpOperation.delete:
    case KvpOperation.enumerate: {
      const pool = body[KvpBody.pool]!;
      if (pool >= KVP_POOL_COUNT || pool === KvpPool.autoInternal) return "pool";
      const content = body.subarray(Math.min(KvpBody.aligned, body.byteLength));
      return parsePoolRequest(operation, pool, content);
    }
    case KvpOperation.getIpInfo:
    case KvpOperation.setIpInfo:
      return parseIpRequest(operation, body, form);
    default:
      return "operation";
  }
}

function parsePoolRequest(
  operation: 0 | 1 | 2 | 3,
  pool: KvpPool,
  content: Uint8Array,
): KvpRequest | KvpFlaw {
  const needed = {
    [KvpOperation.get]: ValueLayout.value,
    [KvpOperation.set]: ValueLayout.SIZE,
    [KvpOperation.delete]: DeleteLayout.SIZE,
    [KvpOperation.enumerate]: EnumerateLayout.value,
  };
  if (content.byteLength < needed[operation]) return "length";
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  if (operation === KvpOperation.enumerate) {
    const index = view.getUint32(EnumerateLayout.index, true);
    return index > MAX_INDEX ? "index" : { operation, pool, index };
  }
  const where = operation === KvpOperation.delete ? DeleteLayout : ValueLayout;
  const keyBytes = view.getUint32(where.keyBytes, true);
  const key = parseUtf16(content.subarray(where.key, where.key + KvpLimit.keyBytes), keyBytes);
  if (key === undefined || !isKey(key)) return "key";
  if (operation !== KvpOperation.set) return { operation, pool, key };
  const value = parseValue(content);
  if (value === undefined || utf8Bytes(String(value)) >= KvpLimit.valueBytes) return "value";
  return { operation, pool, key, value };
}

/** True for a key that a pool can hold. */
export function isKey(key: string): boolean {
  return key !== "" && !hasControl(key) && utf8Bytes(key) < KvpLimit.keyBytes;
}

/** The value of a value structure by its type; undefined for an unknown one, or a wrong size. */
function parseValue(content: Uint8Array): KvpValue | undefined {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const valueBytes = view.getUint32(ValueLayout.valueBytes, true);
  switch (view.getUint32(ValueLayout.type, true)) {
    case KvpValueType.string:
    case KvpValueType.expandString:
      return parseUtf16(content.subarray(ValueLayout.value, ValueLayout.SIZE), valueBytes);
    case KvpValueType.u32:
      return valueBytes === 4 ? view.getUint32(ValueLayout.value, true) : undefined;
    case KvpValueType.u64Alias:
    case KvpValueType.u64:
      return valueBytes === 8 ? view.getBigUint64(ValueLayout.value, true) : undefined;
    default:
      return undefined;
  }
}

function parseIpRequest(operation: 4 | 5, body: Uint8Array, form: IpForm): KvpRequest | KvpFlaw {
  const start = form === "text" ? KvpBody.ipText : KvpBody.aligned;
  const size = form === "text" ? IpTextLayout.SIZE : IpBinaryLayout.SIZE;
  if (body.byteLength < start + size) return "length";
  const content = body.subarray(start, start + size);
  const idAt = form === "text" ? IpTextLayout.adapterId : IpBinaryLayout.adapterId;
  const id = parseUtf16Field(content.subarray(idAt, idAt + IpTextLayout.family)) ?? "";
  if (operation === KvpOperation.getIpInfo) {
    const adapterId = parseMac(id);
    return adapterId === undefined ? "adapter" : { operation, adapterId };
  }
  const adapterId = parseAdapterGuid(id);
  if (adapterId === undefined) return "adapter";
  const settings = (form === "text" ? parseWireIpText(content) : parseIpBinary(content))?.settings;
  return settings === undefined ? "address" : { operation, adapterId, settings };
}

/** The body of a request, as long as hosts make it. */
export function emitKvpRequest(request: KvpRequest, form: IpForm): Uint8Array<ArrayBuffer> {
  const { operation } = request;
  const isIp = operation === KvpOperation.getIpInfo || operation === KvpOperation.setIpInfo;
  const body = new Uint8Array(isIp ? KvpBody.IP_SIZE : KvpBody.SIZE);
  body[KvpBody.operation] = operation;
  const content = body.subarray(KvpBody.aligned);
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  if (!isIp) body[KvpBody.pool] = request.pool;
  switch (operation) {
    case KvpOperation.enumerate:
      view.setUint32(EnumerateLayout.index, request.index, true);
      break;
    case KvpOperation.delete:
      view.setUint32(DeleteLayout.keyBytes, writeKey(content, DeleteLayout.key, request.key), true);
      break;
    case KvpOperation.get:
      view.setUint32(ValueLayout.keyBytes, writeKey(content, ValueLayout.key, request.key), true);
      break;
    case KvpOperation.set:
      writeItem(content, request.key, request.value);
      break;
    case KvpOperation.getIpInfo: {
      const settings = { dhcp: false, addresses: [], gateways: [], dnsServers: [] };
      writeAdapter(body, { adapterId: request.adapterId, settings }, form);
      break;
    }
    case KvpOperation.setIpInfo:
      writeAdapter(body, request, form);
      break;
  }
  return body;
}

/** The body of the answer to an enumeration or a GET: the request's, with the item. Cut to what stock guests send. */
export function emitItemAnswer(request: Uint8Array, { key, value }: KvpItem): Uint8Array {
  const body = request.slice();
  const isGet = body[KvpBody.operation] === KvpOperation.get;
  const content = body.subarray(KvpBody.aligned + (isGet ? 0 : EnumerateLayout.value));
  writeItem(content, key, value, KvpLimit.answerKeyUnits, KvpLimit.answerValueUnits);
  return body;
}

/** The item of the answer to an enumeration or a GET; undefined if it is malformed. An empty key also ends an enumeration. */
export function parseItemAnswer(
  body: Uint8Array,
): { readonly key: string; readonly value: KvpValue } | undefined {
  const isGet = body[KvpBody.operation] === KvpOperation.get;
  const start = KvpBody.aligned + (isGet ? 0 : EnumerateLayout.value);
  if (body.byteLength < start + ValueLayout.SIZE) return undefined;
  const content = body.subarray(start, start + ValueLayout.SIZE);
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const key = parseUtf16(
    content.subarray(ValueLayout.key, ValueLayout.value),
    view.getUint32(ValueLayout.keyBytes, true),
  );
  const value = parseValue(content);
  return key === undefined || value === undefined ? undefined : { key, value };
}

/** The body of the answer to GET_IP_INFO. */
export function emitIpAnswer(adapter: AdapterSettings, form: IpForm): Uint8Array<ArrayBuffer> {
  const body = new Uint8Array(KvpBody.IP_SIZE);
  body[KvpBody.operation] = KvpOperation.getIpInfo;
  writeAdapter(body, adapter, form);
  return body;
}

/** The settings of the answer to GET_IP_INFO; undefined if it is malformed. */
export function parseIpAnswer(body: Uint8Array, form: IpForm): AdapterSettings | undefined {
  if (body.byteLength < KvpBody.IP_SIZE) return undefined;
  return form === "text"
    ? parseWireIpText(body.subarray(KvpBody.ipText))
    : parseIpBinary(body.subarray(KvpBody.aligned));
}

function writeAdapter(body: Uint8Array, adapter: AdapterSettings, form: IpForm): void {
  if (form === "text") writeWireIpText(body.subarray(KvpBody.ipText), adapter);
  else writeIpBinary(body.subarray(KvpBody.aligned), adapter);
}

function writeKey(content: Uint8Array, at: number, key: string, maxUnits?: number): number {
  const field = content.subarray(at, at + KvpLimit.keyBytes).fill(0);
  return writeUtf16(field, key, maxUnits);
}

function writeItem(
  content: Uint8Array,
  key: string,
  value: KvpValue,
  maxKeyUnits?: number,
  maxValueUnits?: number,
): void {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const field = content.subarray(ValueLayout.value, ValueLayout.SIZE).fill(0);
  const keyBytes = writeKey(content, ValueLayout.key, key, maxKeyUnits);
  view.setUint32(ValueLayout.keyBytes, keyBytes, true);
  if (typeof value === "string") {
    view.setUint32(ValueLayout.type, KvpValueType.string, true);
    view.setUint32(ValueLayout.valueBytes, writeUtf16(field, value, maxValueUnits), true);
  } else if (typeof value === "number") {
    view.setUint32(ValueLayout.type, KvpValueType.u32, true);
    view.setUint32(ValueLayout.valueBytes, 4, true);
    view.setUint32(ValueLayout.value, value, true);
  } else {
    view.setUint32(ValueLayout.type, KvpValueType.u64, true);
    view.setUint32(ValueLayout.valueBytes, 8, true);
    view.setBigUint64(ValueLayout.value, value, true);
  }
}
