import {
  ALLOCATION_CONTEXT,
  ALLOCATION_CONTEXT_ID,
  CLIENT_FLAGS_BYTES,
  EXPORT_NAME_ZEROES,
  Greeting,
  HandshakeFlag,
  InfoType,
  Option,
  OptionHeader,
  OptionReply,
  ReplyType,
  STRING_BYTES_MAX,
  TransmissionFlag,
  putU64,
} from "./protocol.js";

/** What a client is told about an export. */
export interface ExportDescription {
  readonly name: string;
  /** For people. */
  readonly description: string;
  readonly sizeBytes: number;
  /** `TransmissionFlag`s, without `sendDf`. */
  readonly flags: number;
  /** What offset and length of every request are multiples of; a power of two. */
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maximumPayloadBytes: number;
}

/** The exports of one address. */
export interface ExportCatalog {
  /** Names of all that are there now. */
  list(): readonly ExportDescription[];
  /** The export of that name, the default one if it is empty; undefined when it is not there. */
  find(name: string): ExportDescription | undefined;
  /** Takes the client in. @returns Why not, for people; undefined when it is in. */
  admit(name: string): string | undefined;
  /** Nobody is let in any more. */
  readonly isShuttingDown: boolean;
}

/** What a handshake ended with. */
export interface Agreement {
  readonly export: ExportDescription;
  readonly structuredReplies: boolean;
  /** `base:allocation` may be asked for. */
  readonly allocationContext: boolean;
}

/** More data than any option that we take has: nothing good can come of it. */
const OPTION_BYTES_MAX = 64 * 1024;

const OUR_FLAGS = HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes;

const encoder = new TextEncoder();

/**
 * The server's side of the option haggling, without its socket.
 *
 * Bytes go in by `read` in pieces of any size; what is to be sent comes out. It ends with an agreement, after
 * which the bytes that were not consumed are requests, or with `isClosed`: the connection is to be closed.
 */
export class Handshake {
  readonly #exports: ExportCatalog;
  readonly #send: (bytes: Uint8Array) => void;
  readonly #header = new Uint8Array(OptionHeader.SIZE);
  /** Bytes of the flags, the header or the data that came so far. */
  #filled = 0;
  #state: "flags" | "header" | "data" = "flags";
  #option = 0;
  #data = new Uint8Array(0);
  #noZeroes = false;
  #structuredReplies = false;
  /** Name of the export that the allocation context was selected for. */
  #contextOf: string | undefined;
  #agreement: Agreement | undefined;
  #isClosed = false;

  /** @param send - Takes what goes to the client, in order; the bytes are its own. */
  constructor(exports: ExportCatalog, send: (bytes: Uint8Array) => void) {
    this.#exports = exports;
    this.#send = send;
    const greeting = new Uint8Array(Greeting.SIZE);
    const view = new DataView(greeting.buffer);
    for (const [at, half] of [...Greeting.magic, ...Greeting.optionMagic].entries())
      view.setUint32(at * 4, half);
    view.setUint16(16, OUR_FLAGS);
    send(greeting);
  }

  /** Set when transmission begins. */
  get agreement(): Agreement | undefined {
    return this.#agreement;
  }

  /** The client has ended it, or broke the protocol in a way that has no answer. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Takes bytes of the client, from `at` to `end`. @returns Where the first byte is that was not consumed. */
  read(bytes: Uint8Array, at: number, end = bytes.byteLength): number {
    while (this.#agreement === undefined && !this.#isClosed) {
      const wanted = this.#wanted();
      const target = this.#state === "data" ? this.#data : this.#header;
      const count = Math.min(wanted - this.#filled, end - at);
      target.set(bytes.subarray(at, at + count), this.#filled);
      at += count;
      this.#filled += count;
      if (this.#filled < wanted) break;
      this.#filled = 0;
      this.#take();
    }
    return at;
  }

  #wanted(): number {
    if (this.#state === "flags") return CLIENT_FLAGS_BYTES;
    return this.#state === "header" ? OptionHeader.SIZE : this.#data.byteLength;
  }

  #take(): void {
    const view = new DataView(this.#header.buffer);
    if (this.#state === "flags") {
      const flags = view.getUint32(0);
      // Bits that we did not offer cannot be ignored: the client counts on what they mean.
      if ((flags & ~OUR_FLAGS) !== 0) this.#isClosed = true;
      this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
      this.#state = "header";
    } else if (this.#state === "header") {
      const [high, low] = Greeting.optionMagic;
      const length = view.getUint32(OptionHeader.length);
      if (view.getUint32(0) !== high || view.getUint32(4) !== low || length > OPTION_BYTES_MAX) {
        this.#isClosed = true;
        return;
      }
      this.#option = view.getUint32(OptionHeader.option);
      this.#data = new Uint8Array(length);
      this.#state = "data";
    } else {
      this.#state = "header";
      this.#answer(this.#data);
    }
  }

  #answer(data: Uint8Array): void {
    const option = this.#option;
    if (option === Option.abort) {
      this.#reply(ReplyType.ack);
      this.#isClosed = true;
    } else if (option === Option.exportName) {
      this.#enterByName(data);
    } else if (this.#exports.isShuttingDown) {
      this.#reply(ReplyType.shutdown, text("the guest is shutting down"));
    } else if (option === Option.list) {
      if (data.byteLength > 0) this.#refuseData();
      else this.#list();
    } else if (option === Option.info || option === Option.go) {
      this.#info(data);
    } else if (option === Option.structuredReply) {
      if (data.byteLength > 0) this.#refuseData();
      else {
        this.#structuredReplies = true;
        this.#reply(ReplyType.ack);
      }
    } else if (option === Option.listMetaContext || option === Option.setMetaContext) {
      this.#metaContexts(data);
    } else if (option === Option.startTls) {
      this.#reply(ReplyType.unsupported, text("there is no TLS here"));
    } else {
      this.#reply(ReplyType.unsupported, text(`option ${option} is not known here`));
    }
  }

  /** The old way in, which has no way to say no. */
  #enterByName(data: Uint8Array): void {
    const found = this.#exports.isShuttingDown ? undefined : this.#find(data);
    if (found === undefined || this.#exports.admit(found.name) !== undefined) {
      this.#isClosed = true;
      return;
    }
    const answer = new Uint8Array(10 + (this.#noZeroes ? 0 : EXPORT_NAME_ZEROES));
    const view = new DataView(answer.buffer);
    putU64(view, 0, found.sizeBytes);
    view.setUint16(8, this.#flags(found));
    this.#send(answer);
    this.#agree(found);
  }

  #list(): void {
    for (const { name, description } of this.#exports.list()) {
      const bytes = encoder.encode(name);
      this.#reply(ReplyType.server, u32(bytes.byteLength), bytes, text(description));
    }
    this.#reply(ReplyType.ack);
  }

  #info(data: Uint8Array): void {
    const fields = new FieldReader(data);
    const name = fields.string();
    const wanted = new Set<number>();
    const count = fields.u16() ?? 0;
    for (let index = 0; index < count; index++) {
      const type = fields.u16();
      if (type === undefined) break;
      wanted.add(type);
    }
    if (name === undefined || !fields.isWhole) {
      this.#reply(ReplyType.invalid, text("the option's data does not add up"));
      return;
    }
    const found = this.#find(name);
    if (found === undefined) {
      this.#reply(ReplyType.unknown, text("there is no such export"));
      return;
    }
    if (this.#option === Option.go) {
      const refusal = this.#exports.admit(found.name);
      if (refusal !== undefined) {
        this.#reply(ReplyType.policy, text(refusal));
        return;
      }
    }
    const size = new Uint8Array(8);
    putU64(new DataView(size.buffer), 0, found.sizeBytes);
    this.#reply(ReplyType.info, u16(InfoType.export), size, u16(this.#flags(found)));
    this.#reply(
      ReplyType.info,
      u16(InfoType.blockSize),
      u32(found.minimumBlockBytes),
      u32(found.preferredBlockBytes),
      u32(found.maximumPayloadBytes),
    );
    if (wanted.has(InfoType.name))
      this.#reply(ReplyType.info, u16(InfoType.name), encoder.encode(found.name));
    if (wanted.has(InfoType.description))
      this.#reply(ReplyType.info, u16(InfoType.description), text(found.description));
    this.#reply(ReplyType.ack);
    if (this.#option === Option.go) this.#agree(found);
  }

  #metaContexts(data: Uint8Array): void {
    const isSet = this.#option === Option.setMetaContext;
    // Whatever becomes of this, what was selected before is not any more.
    if (isSet) this.#contextOf = undefined;
    if (!this.#structuredReplies) {
      this.#reply(ReplyType.invalid, text("contexts need structured replies first"));
      return;
    }
    const fields = new FieldReader(data);
    const name = fields.string();
    const count = fields.u32() ?? 0;
    let isSelected = !isSet && count === 0;
    for (let index = 0; index < count; index++) {
      const query = fields.string();
      if (query === undefined) break;
      const name = new TextDecoder().decode(query);
      if (name === ALLOCATION_CONTEXT || (!isSet && name === "base:")) isSelected = true;
    }
    if (name === undefined || !fields.isWhole) {
      this.#reply(ReplyType.invalid, text("the option's data does not add up"));
      return;
    }
    const found = this.#find(name);
    if (found === undefined) {
      this.#reply(ReplyType.unknown, text("there is no such export"));
      return;
    }
    if (isSelected)
      this.#reply(
        ReplyType.metaContext,
        u32(isSet ? ALLOCATION_CONTEXT_ID : 0),
        text(ALLOCATION_CONTEXT),
      );
    if (isSelected && isSet) this.#contextOf = found.name;
    this.#reply(ReplyType.ack);
  }

  #find(name: Uint8Array): ExportDescription | undefined {
    if (name.byteLength > STRING_BYTES_MAX) return undefined;
    return this.#exports.find(new TextDecoder().decode(name));
  }

  #flags({ flags }: ExportDescription): number {
    return flags | (this.#structuredReplies ? TransmissionFlag.sendDf : 0);
  }

  #agree(found: ExportDescription): void {
    this.#agreement = {
      export: found,
      structuredReplies: this.#structuredReplies,
      allocationContext: this.#contextOf === found.name,
    };
  }

  #refuseData(): void {
    this.#reply(ReplyType.invalid, text("this option has no data"));
  }

  #reply(type: ReplyType, ...parts: readonly Uint8Array[]): void {
    const length = parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const reply = new Uint8Array(OptionReply.SIZE + length);
    const view = new DataView(reply.buffer);
    const [high, low] = OptionReply.MAGIC;
    view.setUint32(OptionReply.magic, high);
    view.setUint32(OptionReply.magic + 4, low);
    view.setUint32(OptionReply.option, this.#option);
    view.setUint32(OptionReply.type, type);
    view.setUint32(OptionReply.length, length);
    let at: number = OptionReply.SIZE;
    for (const part of parts) {
      reply.set(part, at);
      at += part.byteLength;
    }
    this.#send(reply);
  }
}

/** Reads the fields of an option's data, and notices when it is too short. */
class FieldReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;
  #isShort = false;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** No field was missing, and no byte is left. */
  get isWhole(): boolean {
    return !this.#isShort && this.#at === this.#bytes.byteLength;
  }

  u16(): number | undefined {
    const at = this.#take(2);
    return at === undefined ? undefined : this.#view.getUint16(at);
  }

  u32(): number | undefined {
    const at = this.#take(4);
    return at === undefined ? undefined : this.#view.getUint32(at);
  }

  /** A u32 length, and so many bytes. */
  string(): Uint8Array | undefined {
    const length = this.u32();
    const at = length === undefined ? undefined : this.#take(length);
    return at === undefined ? undefined : this.#bytes.subarray(at, this.#at);
  }

  #take(count: number): number | undefined {
    const at = this.#at;
    if (this.#isShort || count > this.#bytes.byteLength - at) {
      this.#isShort = true;
      return undefined;
    }
    this.#at += count;
    return at;
  }
}

function text(words: string): Uint8Array {
  return encoder.encode(words);
}

function u16(value: number): Uint8Array {
  return Uint8Array.of(value >>> 8, value);
}

function u32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}
