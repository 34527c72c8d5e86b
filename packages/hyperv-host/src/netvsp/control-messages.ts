import { SendResult, type Channel } from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  PacketType,
  TransferPageRange,
  TransferPages,
} from "@hyperv-is/vmbus-core/protocol";
import {
  RECEIVE_BUFFER_ID,
  RNDIS_INITIALIZE_COMPLETE_BYTES,
  RNDIS_VERSION,
  RndisChannelType,
  RndisInitialize,
  RndisInitializeComplete,
  RndisInitializeLimits,
  RndisKeepalive,
  RndisKeepaliveComplete,
  RndisSetComplete,
  RndisStatus,
  RndisType,
  emitRndisQueryComplete,
  emitRndisStatus,
  parseRndisRequest,
  rndisMessageBytes,
  get32,
} from "@hyperv-is/hv-netvsc/protocol";
import type { FrameMemory } from "../switch/frame-memory.js";
import { privateMemory } from "../switch/frame-memory.js";
import type { NetvspSession } from "./netvsp-session.js";
import { queryOid, setOid, type OidSource } from "./oid-answers.js";
import { nvspMessage } from "./receive-packets.js";

/** Bytes of messages that may wait for their answers. Source: OpenVMM. */
const QUEUED_BYTES_MAX = 100 * 1024;

/** Room in the ring without which no message is answered. Source: OpenVMM. */
const RING_BYTES_LEAST = 144;

/** Messages to the guest that may wait. */
const WAITING_MAX = 64;

/** Why a message has no answer: the channel ends. */
export interface ControlFault {
  readonly rule: string;
  readonly detail: string;
}

const HEADER_BYTES = TransferPages.ranges + TransferPageRange.SIZE;
const CONNECTIONLESS = 1;

/**
 * The RNDIS control messages of a primary channel: requests are answered in order, each as soon as there is a slot and
 * room in the ring; what the host has to say by itself waits likewise.
 */
export class ControlMessages {
  readonly #session: NetvspSession;
  readonly #source: OidSource;
  readonly #began: () => void;
  readonly #requests: Uint8Array[] = [];
  #queuedBytes = 0;
  readonly #waiting: Uint8Array[] = [];
  /** What a request has changed: the guest hears of it after the answer. */
  readonly #news: Uint8Array[] = [];
  #isAnswering = false;

  /** @param began - is called when the guest has initialized. */
  constructor(session: NetvspSession, source: OidSource, began: () => void) {
    this.#session = session;
    this.#source = source;
    this.#began = began;
  }

  /** True if something waits for a slot or for room. */
  hasWork(): boolean {
    return this.#requests.length > 0 || this.#waiting.length > 0;
  }

  /** Room in the ring that the next one needs, in bytes. */
  get neededBytes(): number {
    return Math.max(RING_BYTES_LEAST, HEADER_BYTES + this.#session.packetBytes);
  }

  /** Takes a request. @returns False if there are too many. */
  request(message: Uint8Array): boolean {
    if (message.byteLength > QUEUED_BYTES_MAX - this.#queuedBytes) return false;
    this.#queuedBytes += message.byteLength;
    this.#requests.push(message);
    return true;
  }

  /** Tells the guest something; what does not fit is lost, as the guest takes none of them. */
  indicate(status: RndisStatus, information?: Uint8Array<ArrayBuffer>): void {
    const message = emitRndisStatus(status, information);
    if (this.#isAnswering) this.#news.push(message);
    else this.send(message);
  }

  /** Sends a message as soon as it can be sent. */
  send(message: Uint8Array): void {
    if (this.#waiting.length < WAITING_MAX) this.#waiting.push(message);
  }

  /**
   * Answers and sends what can be.
   *
   * @param answered - gets each answer, to send it or not.
   */
  drain(channel: Channel, answered: (answer: Uint8Array) => void): ControlFault | undefined {
    for (;;) {
      while (this.#waiting.length > 0) {
        if (!this.#put(channel, this.#waiting[0]!)) return undefined;
        this.#waiting.shift();
      }
      const request = this.#requests.shift();
      if (request === undefined) return undefined;
      this.#queuedBytes -= request.byteLength;
      this.#isAnswering = true;
      const answer = this.#answer(request);
      this.#isAnswering = false;
      if (!(answer instanceof Uint8Array)) return answer;
      answered(answer);
      for (const message of this.#news.splice(0)) this.send(message);
    }
  }

  /** Forgets everything. */
  clear(): void {
    this.#requests.length = 0;
    this.#waiting.length = 0;
    this.#news.length = 0;
    this.#queuedBytes = 0;
  }

  #answer(bytes: Uint8Array): Uint8Array | ControlFault {
    const message = rndisMessageBytes(bytes);
    const fault = (rule: string, detail: string): ControlFault => ({ rule, detail });
    if (message === undefined)
      return fault("netvsp-control-length", `a message of ${bytes.byteLength} bytes`);
    const type = get32(message, 0);
    const short = (): ControlFault =>
      fault("netvsp-control-length", `${message.byteLength} bytes of a message of type ${type}`);
    switch (type) {
      case RndisType.initialize: {
        const request = RndisInitialize.parse(message);
        if (request === undefined) return short();
        if (this.#session.rndis !== "initializing")
          return fault("netvsp-control-state", "an INITIALIZE after an accepted one");
        this.#session.rndis = "operational";
        this.#began();
        return initialized(request.requestId);
      }
      case RndisType.query: {
        const request = parseRndisRequest(message);
        if (request === undefined) return short();
        const value = queryOid(this.#source, request.oid);
        return value instanceof Uint8Array
          ? emitRndisQueryComplete(request.requestId, RndisStatus.success, value)
          : emitRndisQueryComplete(request.requestId, value);
      }
      case RndisType.set: {
        const request = parseRndisRequest(message);
        if (request === undefined) return short();
        const status = setOid(this.#source, request.oid, request.information);
        return RndisSetComplete.emit({ requestId: request.requestId, status });
      }
      case RndisType.keepalive: {
        const request = RndisKeepalive.parse(message);
        if (request === undefined) return short();
        const { requestId } = request;
        return RndisKeepaliveComplete.emit({ requestId, status: RndisStatus.success });
      }
      default:
        return fault("netvsp-control-type", `a message of type ${type}`);
    }
  }

  /** Puts a message into a slot and tells the guest of it. */
  #put(channel: Channel, message: Uint8Array): boolean {
    const { slots, receiveBuffer, packetBytes } = this.#session;
    if (receiveBuffer === undefined || channel.isClosed()) return false;
    const slot = slots.takeControl();
    if (slot < 0) return false;
    const { transferPages } = PacketType;
    const flags = PACKET_FLAG_COMPLETION_REQUESTED;
    const bytes = HEADER_BYTES + packetBytes;
    if (channel.begin(transferPages, flags, HEADER_BYTES, bytes, slot, 0) !== SendResult.Ready) {
      slots.drop(slot);
      return false;
    }
    const offset = slot * slots.slotBytes;
    receiveBuffer.write(offset, memoryOf(message), 0, message.byteLength);
    const { outgoing } = channel;
    outgoing.putU32(RECEIVE_BUFFER_ID);
    outgoing.putU32(1);
    outgoing.putU32(message.byteLength);
    outgoing.putU32(offset);
    outgoing.putWords(nvspMessage(packetBytes, RndisChannelType.control), 0, packetBytes >>> 2);
    outgoing.end();
    slots.lend(slot, 0);
    return true;
  }
}

function memoryOf(message: Uint8Array): FrameMemory {
  const memory = privateMemory((message.byteLength + 7) & ~7);
  memory.bytes.set(message);
  return memory;
}

function initialized(requestId: number): Uint8Array {
  const bytes = new Uint8Array(RNDIS_INITIALIZE_COMPLETE_BYTES);
  RndisInitializeComplete.write(bytes, {
    requestId,
    status: RndisStatus.success,
    ...RNDIS_VERSION,
    deviceFlags: CONNECTIONLESS,
    medium: 0,
    ...RndisInitializeLimits,
    afListOffset: 0,
  });
  return bytes;
}
