import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import { NetvscError } from "./errors.js";
import {
  emitRndisQuery,
  emitRndisSet,
  NvspStatus,
  parseRndisQueryComplete,
  parseRndisStatus,
  RNDIS_VERSION,
  RndisHalt,
  RndisHeader,
  RndisInitialize,
  RndisInitializeComplete,
  RndisKeepalive,
  RndisKeepaliveComplete,
  rndisMessageBytes,
  RndisSetComplete,
  RndisStatus,
  RndisType,
  type Oid,
  type RndisStatusIndication,
} from "./protocol/index.js";

/** What the host is asked. */
export type RndisQuestion =
  | { readonly kind: "initialize"; readonly maxTransferBytes: number }
  | { readonly kind: "query"; readonly oid: Oid; readonly information?: Uint8Array }
  | { readonly kind: "set"; readonly oid: Oid; readonly information: Uint8Array }
  | { readonly kind: "keepalive" }
  /** Has no answer but that the host has read it. */
  | { readonly kind: "halt" };

/** What the host answers. */
export interface RndisAnswer {
  readonly status: RndisStatus;
  /** Of a query; empty otherwise. */
  readonly information: Uint8Array;
  /** All of the answer. */
  readonly message: Uint8Array;
}

/** How messages leave, and what comes unasked. */
export interface ConversationEvents {
  /**
   * Sends a message; `taken` is called with the NVSP status when the host says that it has read it.
   * @returns To be called when the host need not say so any more; undefined if nothing can be sent now.
   */
  send(message: Uint8Array, taken: (status: number) => void): (() => void) | undefined;
  /** INDICATE_STATUS. */
  indicated(indication: RndisStatusIndication): void;
}

/** Running totals. */
export interface ConversationCounters {
  asked: number;
  indications: number;
  /** Keepalives of the host that were answered. */
  keepalives: number;
  /** Messages that are none, or have no place in a conversation. */
  malformed: number;
  /** Completions that nothing waits for: late, double, or invented. */
  unexpected: number;
}

interface Pending {
  readonly question: RndisQuestion;
  readonly resolve: (answer: RndisAnswer) => void;
  readonly reject: (error: Error) => void;
}

const NO_BYTES = new Uint8Array(0);
/** The answer to HALT. */
const READ: RndisAnswer = { status: RndisStatus.success, information: NO_BYTES, message: NO_BYTES };

/** Low half of every request id, as FreeBSD has it; the upper half counts, and is never 0. */
const ID_UNIT = 0x1_0000;

/**
 * Questions and answers over RNDIS, one at a time as FreeBSD asks them. The host answers each twice: that it has
 * taken the message, and with a message of its own; in either order. Whatever the host says, or does not say,
 * each question ends, at the latest when its time is up.
 */
export class RndisConversation {
  readonly counters: ConversationCounters = {
    asked: 0,
    indications: 0,
    keepalives: 0,
    malformed: 0,
    unexpected: 0,
  };
  readonly #timers: Timers;
  readonly #timeoutMs: number;
  readonly #events: ConversationEvents;
  readonly #waiting: Pending[] = [];
  #asked: Pending | undefined;
  /** Of the question that was asked. */
  #askedId = 0;
  /** Lets go of its message. */
  #letGo: (() => void) | undefined;
  #lastId = 0;
  #timer: Timer | undefined;
  #closed: Error | undefined;

  /** @param timeoutMs - How long the host may take for an answer. */
  constructor(timers: Timers, timeoutMs: number, events: ConversationEvents) {
    this.#timers = timers;
    this.#timeoutMs = timeoutMs;
    this.#events = events;
  }

  /**
   * Asks when all earlier questions are answered. Any status is an answer. Rejects with `NetvscError`: no answer in
   * time, one that is none, the message not taken, or what `close` was told.
   */
  ask(question: RndisQuestion): Promise<RndisAnswer> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) {
        reject(this.#closed);
        return;
      }
      this.#waiting.push({ question, resolve, reject });
      if (this.#asked === undefined) this.#next();
    });
  }

  /** The information of a query. Rejects as `ask` does, and with `ERR_NETVSC_REFUSED`. */
  async query(oid: Oid, information?: Uint8Array): Promise<Uint8Array> {
    const answer = await this.ask({
      kind: "query",
      oid,
      ...(information !== undefined && { information }),
    });
    return checked(answer, oid).information;
  }

  /** Sets a value. Rejects as `query` does. */
  async set(oid: Oid, information: Uint8Array): Promise<void> {
    checked(await this.ask({ kind: "set", oid, information }), oid);
  }

  /** A message of the host: the range that it came in. */
  receive(range: Uint8Array): void {
    const message = rndisMessageBytes(range);
    if (message === undefined) {
      this.counters.malformed++;
      return;
    }
    const { type } = RndisHeader.parse(message)!;
    switch (type) {
      case RndisType.initializeComplete:
      case RndisType.queryComplete:
      case RndisType.setComplete:
      case RndisType.keepaliveComplete:
        this.#complete(type, message);
        break;
      case RndisType.indicateStatus:
        this.#indicated(message);
        break;
      case RndisType.keepalive:
        this.#keepalive(message);
        break;
      default:
        this.counters.malformed++;
    }
  }

  /** Ends every question, and all that are asked later. Idempotent. */
  close(error: Error): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    this.#timer?.cancel();
    const asked = this.#asked;
    this.#asked = undefined;
    asked?.reject(error);
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  #next(): void {
    const pending = this.#waiting.shift();
    if (pending === undefined) return;
    this.#asked = pending;
    this.counters.asked++;
    const requestId = this.#newId();
    this.#askedId = requestId;
    this.#timer = this.#timers.after(this.#timeoutMs, () => {
      this.#end((asked) => asked.reject(timeout(nameOf(asked.question))));
    });
    this.#letGo = undefined;
    const letGo = this.#events.send(emit(pending.question, requestId), (status) => {
      if (this.#asked !== pending) return;
      if (status !== NvspStatus.success)
        this.#end(({ question, reject }) => reject(refused(nameOf(question), status)));
      else if (pending.question.kind === "halt") this.#end(({ resolve }) => resolve(READ));
    });
    if (letGo === undefined) this.#end((asked) => asked.reject(busy()));
    else if (this.#asked === pending) this.#letGo = letGo;
    // It was over within the call.
    else letGo();
  }

  #newId(): number {
    // Never 0, though nobody asks that often.
    this.#lastId = (this.#lastId + ID_UNIT) % 2 ** 32 || ID_UNIT;
    return this.#lastId;
  }

  #complete(type: RndisType, message: Uint8Array): void {
    const asked = this.#asked;
    if (asked === undefined || type !== completionOf(asked.question)) {
      this.counters.unexpected++;
      return;
    }
    const parsed = parse(type, message);
    if (parsed === undefined) {
      this.counters.malformed++;
      const error = new NetvscError("ERR_NETVSC_REPLY", `no answer to ${nameOf(asked.question)}`);
      this.#end(({ reject }) => reject(error));
    } else if (parsed.requestId !== this.#askedId) this.counters.unexpected++;
    else {
      const { status, information } = parsed;
      // What is answered was read, though some hosts say so late, or never.
      this.#letGo?.();
      this.#end(({ resolve }) => resolve({ status, information, message }));
    }
  }

  /** The question that was asked is over. */
  #end(how: (asked: Pending) => void): void {
    const asked = this.#asked;
    if (asked === undefined) return;
    this.#asked = undefined;
    this.#timer?.cancel();
    how(asked);
    if (this.#closed === undefined) this.#next();
  }

  #indicated(message: Uint8Array): void {
    const indication = parseRndisStatus(message);
    if (indication === undefined) this.counters.malformed++;
    else {
      this.counters.indications++;
      this.#events.indicated(indication);
    }
  }

  #keepalive(message: Uint8Array): void {
    const keepalive = RndisKeepalive.parse(message);
    if (keepalive === undefined) {
      this.counters.malformed++;
      return;
    }
    const { requestId } = keepalive;
    const answer = RndisKeepaliveComplete.emit({ requestId, status: RndisStatus.success });
    if (this.#events.send(answer, () => undefined) !== undefined) this.counters.keepalives++;
  }
}

function emit(question: RndisQuestion, requestId: number): Uint8Array {
  switch (question.kind) {
    case "initialize":
      return RndisInitialize.emit({
        requestId,
        ...RNDIS_VERSION,
        maxTransferSize: question.maxTransferBytes,
      });
    case "query":
      return emitRndisQuery(requestId, question.oid, question.information);
    case "set":
      return emitRndisSet(requestId, question.oid, question.information);
    case "keepalive":
      return RndisKeepalive.emit({ requestId });
    case "halt":
      return RndisHalt.emit({ requestId });
  }
}

function completionOf({ kind }: RndisQuestion): RndisType | undefined {
  switch (kind) {
    case "initialize":
      return RndisType.initializeComplete;
    case "query":
      return RndisType.queryComplete;
    case "set":
      return RndisType.setComplete;
    case "keepalive":
      return RndisType.keepaliveComplete;
    case "halt":
      return undefined;
  }
}

/** What all completions have. */
interface Completion {
  readonly requestId: number;
  readonly status: RndisStatus;
  readonly information: Uint8Array;
}

function parse(type: RndisType, message: Uint8Array): Completion | undefined {
  if (type === RndisType.queryComplete) return parseRndisQueryComplete(message);
  const kind =
    type === RndisType.initializeComplete
      ? RndisInitializeComplete
      : type === RndisType.setComplete
        ? RndisSetComplete
        : RndisKeepaliveComplete;
  const fields = kind.parse(message);
  return fields && { ...fields, information: NO_BYTES };
}

function checked(answer: RndisAnswer, oid: Oid): RndisAnswer {
  if (answer.status === RndisStatus.success) return answer;
  throw refused(`OID 0x${oid.toString(16).padStart(8, "0")}`, answer.status);
}

function nameOf(question: RndisQuestion): string {
  if (question.kind !== "query" && question.kind !== "set") return question.kind;
  return `${question.kind} of OID 0x${question.oid.toString(16).padStart(8, "0")}`;
}

function refused(what: string, status: number): NetvscError {
  const text = `the host refused ${what} (status 0x${status.toString(16)})`;
  return new NetvscError("ERR_NETVSC_REFUSED", text, status);
}

function timeout(what: string): NetvscError {
  return new NetvscError("ERR_NETVSC_TIMEOUT", `the host did not answer: ${what}`);
}

function busy(): NetvscError {
  return new NetvscError("ERR_NETVSC_BUSY", "the host has not taken earlier messages");
}
