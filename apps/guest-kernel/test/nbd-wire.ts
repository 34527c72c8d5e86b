// What an NBD client sends and reads, written from the protocol's document and not from the server's constants.

export const big = (bytes: number, value: number | bigint): Buffer => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(BigInt(value));
  return buffer.subarray(8 - bytes);
};

/** Flags of the client: fixed newstyle and no zeroes unless told. */
export const clientFlags = (flags = 3): Buffer => big(4, flags);

export const option = (type: number, ...data: readonly Uint8Array[]): Buffer => {
  const whole = Buffer.concat(data);
  return Buffer.concat([Buffer.from("IHAVEOPT"), big(4, type), big(4, whole.byteLength), whole]);
};

/** A u32 length, and the text. */
export const counted = (text: string): Buffer =>
  Buffer.concat([big(4, Buffer.byteLength(text)), Buffer.from(text)]);

export const infoOption = (type: 6 | 7, name: string, ...wanted: readonly number[]): Buffer =>
  option(type, counted(name), big(2, wanted.length), ...wanted.map((one) => big(2, one)));

export const contextOption = (type: 9 | 10, name: string, ...queries: readonly string[]): Buffer =>
  option(type, counted(name), big(4, queries.length), ...queries.map(counted));

export interface WireRequest {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly data?: Uint8Array;
  readonly magic?: number;
}

export const request = ({
  type,
  flags = 0,
  cookie = 0n,
  offset = 0,
  data,
  length = data?.byteLength ?? 0,
  magic = 0x25609513,
}: WireRequest): Buffer =>
  Buffer.concat([
    big(4, magic),
    big(2, flags),
    big(2, type),
    big(8, cookie),
    big(8, offset),
    big(4, length),
    data ?? Buffer.alloc(0),
  ]);

export const replyTypes: ReadonlyMap<number, string> = new Map([
  [1, "ack"],
  [2, "server"],
  [3, "info"],
  [4, "context"],
  [0x80000001, "unsupported"],
  [0x80000002, "policy"],
  [0x80000003, "invalid"],
  [0x80000006, "unknown"],
  [0x80000007, "shutdown"],
]);

export interface WireReply {
  readonly option: number;
  readonly type: string;
  readonly data: Buffer;
}

/** All replies to options in some bytes; throws if there is anything else. */
export function parseReplies(bytes: Buffer): WireReply[] {
  const replies: WireReply[] = [];
  for (let at = 0; at < bytes.byteLength;) {
    if (bytes.readBigUInt64BE(at) !== 0x3e889045565a9n) throw new Error(`no reply at ${at}`);
    const type = replyTypes.get(bytes.readUInt32BE(at + 12));
    const length = bytes.readUInt32BE(at + 16);
    const end = at + 20 + length;
    if (type === undefined || end > bytes.byteLength) throw new Error(`a broken reply at ${at}`);
    replies.push({
      option: bytes.readUInt32BE(at + 8),
      type,
      data: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return replies;
}
