import { once } from "node:events";
import { connect, type Socket } from "node:net";
import {
  clientFlags,
  contextOption,
  infoOption,
  option,
  parseReplies,
  request,
  type WireReply,
  type WireRequest,
} from "./nbd-wire.js";

export const Cmd = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  zeroes: 6,
  status: 7,
} as const;
export const Flag = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16 } as const;

export interface Answer {
  readonly error: number;
  /** Data of a read, in its place. */
  readonly data: Buffer;
  /** Extents of a status: length and flags. */
  readonly extents: readonly (readonly [length: number, flags: number])[];
  /** Chunks that the answer came in; 0 for a simple reply. */
  readonly chunks: number;
}

interface Pending {
  readonly request: WireRequest;
  readonly data: Buffer;
  chunks: number;
  /** Of a read: bytes that came in chunks. */
  bytes: number;
  error: number;
  extents: (readonly [number, number])[];
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export interface ClientOptions {
  readonly exportName?: string;
  readonly structured?: boolean;
  readonly context?: boolean;
}

/** Where to connect to: the URI that the machine tells. */
export function socketOf(uri: string): Socket {
  const url = new URL(uri);
  const path = url.searchParams.get("socket");
  return path === null
    ? connect({ host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port) })
    : connect(path);
}

/** A client that checks every byte of what the server sends, and rejects all that is pending when one is wrong. */
export class NbdClient {
  readonly socket: Socket;
  /** Size and flags that the export was announced with. */
  sizeBytes = 0;
  flags = 0;
  /** Resolves when the connection is closed. */
  readonly closed: Promise<unknown>;
  readonly #structured: boolean;
  readonly #pending = new Map<bigint, Pending>();
  readonly #input: Buffer[] = [];
  #inputBytes = 0;
  #arrived: () => void = () => undefined;
  #isGone = false;
  #cookie = 1n;

  private constructor(socket: Socket, structured: boolean) {
    this.socket = socket;
    this.#structured = structured;
    this.closed = once(socket, "close").catch(() => undefined);
    socket.on("data", (bytes) => {
      this.#input.push(bytes);
      this.#inputBytes += bytes.byteLength;
      this.#arrived();
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#isGone = true;
      this.#arrived();
    });
  }

  static async connect(uri: string, options: ClientOptions = {}): Promise<NbdClient> {
    const { exportName = "", structured = true, context = structured } = options;
    const client = new NbdClient(socketOf(uri), structured);
    if ((await client.#take(18)).toString("hex") !== "4e42444d4147494349484156454f50540003")
      throw new Error("no greeting");
    client.socket.write(clientFlags());
    if (structured) await client.negotiate(option(8));
    if (context) await client.negotiate(contextOption(10, exportName, "base:allocation"));
    const replies = await client.negotiate(infoOption(7, exportName));
    const last = replies.at(-1)!;
    if (last.type !== "ack") throw new Error(`${last.type}: ${last.data.toString()}`);
    const info = replies.find(({ data }) => data.readUInt16BE(0) === 0)!.data;
    client.sizeBytes = Number(info.readBigUInt64BE(2));
    client.flags = info.readUInt16BE(10);
    void client.#receive();
    return client;
  }

  /** Sends an option and collects its replies. */
  async negotiate(bytes: Buffer): Promise<WireReply[]> {
    this.socket.write(bytes);
    const replies: WireReply[] = [];
    for (;;) {
      const header = await this.#take(20);
      const [reply] = parseReplies(
        Buffer.concat([header, await this.#take(header.readUInt32BE(16))]),
      );
      replies.push(reply!);
      if (!["server", "info", "context"].includes(reply!.type)) return replies;
    }
  }

  /** Sends a request; several may be under way. */
  request(wanted: WireRequest): Promise<Answer> {
    const cookie = this.#cookie++;
    const sent = { ...wanted, cookie };
    const length = wanted.type === Cmd.read ? (wanted.length ?? 0) : 0;
    const answer = new Promise<Answer>((resolve, reject) => {
      const data = Buffer.alloc(length < 2 ** 30 ? length : 0);
      const pending = {
        request: sent,
        data,
        chunks: 0,
        bytes: 0,
        error: 0,
        extents: [],
        resolve,
        reject,
      };
      if (this.#isGone) reject(new Error("the connection is closed"));
      else this.#pending.set(cookie, pending);
    });
    this.socket.write(request(sent));
    return answer;
  }

  read(offset: number, length: number, flags = 0): Promise<Answer> {
    return this.request({ type: Cmd.read, offset, length, flags });
  }

  write(offset: number, data: Uint8Array, flags = 0): Promise<Answer> {
    return this.request({ type: Cmd.write, offset, data, flags });
  }

  command(type: number, offset = 0, length = 0, flags = 0): Promise<Answer> {
    return this.request({ type, offset, length, flags });
  }

  /** Ends in good order. */
  async close(): Promise<void> {
    this.socket.write(request({ type: Cmd.disconnect }));
    this.socket.end();
    await this.closed;
  }

  async #take(count: number): Promise<Buffer> {
    while (this.#inputBytes < count) {
      if (this.#isGone) throw new Error("the connection is closed");
      await new Promise<void>((resolve) => (this.#arrived = resolve));
    }
    this.#inputBytes -= count;
    const first = this.#input[0] ?? Buffer.alloc(0);
    if (first.byteLength > count) {
      this.#input[0] = first.subarray(count);
      return first.subarray(0, count);
    }
    const taken = Buffer.alloc(count);
    for (let at = 0; at < count;) {
      const part = this.#input.shift()!;
      const used = Math.min(part.byteLength, count - at);
      taken.set(part.subarray(0, used), at);
      if (used < part.byteLength) this.#input.unshift(part.subarray(used));
      at += used;
    }
    return taken;
  }

  async #receive(): Promise<void> {
    try {
      for (;;) await this.#reply();
    } catch (error) {
      this.socket.destroy();
      for (const { reject } of this.#pending.values()) reject(error as Error);
      this.#pending.clear();
    }
  }

  async #reply(): Promise<void> {
    const magic = (await this.#take(4)).readUInt32BE();
    if (magic === 0x67446698) {
      const header = await this.#take(12);
      const pending = this.#find(header.readBigUInt64BE(4));
      const { type } = pending.request;
      if (this.#structured && (type === Cmd.read || type === Cmd.status))
        throw new Error("a simple reply where chunks were agreed on");
      pending.error = header.readUInt32BE(0);
      if (pending.error === 0 && type === Cmd.read)
        pending.data.set(await this.#take(pending.data.byteLength));
      this.#finish(pending);
    } else if (magic === 0x668e33ef && this.#structured) {
      const header = await this.#take(16);
      const pending = this.#find(header.readBigUInt64BE(4));
      const payload = await this.#take(header.readUInt32BE(12));
      this.#chunk(pending, header.readUInt16BE(2), payload);
      if ((header.readUInt16BE(0) & 1) !== 0) this.#finish(pending);
    } else throw new Error(`${magic.toString(16)} is no reply`);
  }

  #chunk(pending: Pending, type: number, payload: Buffer): void {
    pending.chunks++;
    if (type === 1 && pending.request.type === Cmd.read) {
      const at = Number(payload.readBigUInt64BE(0) - BigInt(pending.request.offset ?? 0));
      const data = payload.subarray(8);
      if (at < 0 || at + data.byteLength > pending.data.byteLength || data.byteLength === 0)
        throw new Error("a chunk outside the request");
      pending.data.set(data, at);
      pending.bytes += data.byteLength;
    } else if (type === 5 && pending.request.type === Cmd.status) {
      if (payload.readUInt32BE(0) !== 1) throw new Error("a context that was not selected");
      for (let at = 4; at < payload.byteLength; at += 8)
        pending.extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
    } else if (type === 0x8001) {
      pending.error = payload.readUInt32BE(0);
      if (pending.error === 0 || payload.readUInt16BE(4) !== payload.byteLength - 6)
        throw new Error("a broken error chunk");
    } else throw new Error(`a chunk of type ${type}`);
  }

  #find(cookie: bigint): Pending {
    const pending = this.#pending.get(cookie);
    if (pending === undefined) throw new Error(`a reply to nothing: ${cookie}`);
    return pending;
  }

  #finish({ request: { cookie }, error, data, extents, chunks, bytes, resolve }: Pending): void {
    this.#pending.delete(cookie!);
    if (error === 0 && chunks > 0 && bytes !== data.byteLength)
      throw new Error("success without all of the data");
    resolve({ error, data, extents, chunks });
  }
}
