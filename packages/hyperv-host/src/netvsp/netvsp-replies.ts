import type { Channel, IncomingRing, Timer } from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  NvspStatus,
  NvspType,
  SEND_TABLE_ENTRIES,
  emitSendTable,
} from "@hyperv-is/hv-netvsc/protocol";
import type { FaultAt, FaultContext } from "../faults.js";
import type { ServiceContext } from "../host-service.js";
import { PacketQueue } from "../packet-queue.js";
import type { NetvspSession } from "./netvsp-session.js";
import type { NicCounters } from "./nic-config.js";

/** Packets that may wait for room in the ring. */
const WAITING_MAX = 512;

/** Most of them that one packet of the guest leads to: by a fault there may be two completions. */
const REPLIES_MAX = 2;

/** Bytes of the largest: the send table. */
const REPLY_BYTES_MAX = 80;

/** A stray completion is of this id, with bits of the right one. */
const STRAY_ID_BITS = 0x5a5a_0000;

/** What one channel sends to the guest by itself and as completions, in order; frames and control messages apart. */
export class NetvspReplies {
  readonly #session: NetvspSession;
  readonly #context: ServiceContext;
  readonly #counters: NicCounters;
  readonly #queue = new PacketQueue(WAITING_MAX, REPLY_BYTES_MAX);
  readonly #bytes = new Uint8Array(REPLY_BYTES_MAX);
  readonly #words = new Int32Array(this.#bytes.buffer);
  readonly #late = new Set<Timer>();
  readonly #fault: FaultContext;
  #channel: Channel | undefined;

  /** @param device - whose channel it is, for fault plans. */
  constructor(
    session: NetvspSession,
    context: ServiceContext,
    counters: NicCounters,
    device: Pick<FaultContext, "classId" | "instanceId">,
  ) {
    this.#session = session;
    this.#context = context;
    this.#counters = counters;
    this.#fault = { ...device, operation: "transmit" };
  }

  opened(channel: Channel): void {
    this.#channel = channel;
  }

  /** Packets that wait for room. */
  get waiting(): number {
    return this.#queue.waiting;
  }

  /** Room in the ring that the first of them needs, in bytes. */
  get neededBytes(): number {
    return this.#queue.neededBytes;
  }

  /** True if no more packets of the guest may be taken. */
  get isFull(): boolean {
    return this.#queue.waiting + REPLIES_MAX > WAITING_MAX;
  }

  /** Sends what waits while there is room; true if nothing is left. */
  drain(channel: Channel): boolean {
    return this.#queue.drain(channel);
  }

  /** Forgets everything. */
  clear(): void {
    for (const timer of this.#late) timer.cancel();
    this.#late.clear();
    this.#queue.clear();
  }

  /** Completes a message of the guest with another one. */
  answer({ idLow, idHigh }: IncomingRing, message: Uint8Array): void {
    this.#bytes.fill(0);
    this.#bytes.set(message);
    this.#put(PacketType.completion, idLow, idHigh, this.#session.packetBytes);
  }

  /** Completes a message that has no answer, if the guest wants it. */
  acknowledge({ completionRequested, idLow, idHigh }: IncomingRing): void {
    if (completionRequested) this.#put(PacketType.completion, idLow, idHigh, 0);
  }

  /** Tells the guest which channels to send on. */
  sendTable(channels: number): void {
    const entries = Array.from({ length: SEND_TABLE_ENTRIES }, (_, index) => index % channels);
    const message = emitSendTable(entries);
    this.#bytes.fill(0);
    this.#bytes.set(message);
    this.#put(PacketType.inBand, 0, 0, (message.byteLength + 7) & ~7);
  }

  /** Completes a send as the fault plan lets it. */
  completeSend({ idLow, idHigh }: IncomingRing, status: NvspStatus): void {
    const fault = this.#sendFault();
    switch (fault?.kind) {
      case "lost-completion":
        return;
      case "late-completion":
        this.#completeLater(fault.delayMs, idLow, idHigh, status);
        return;
      case "duplicate-completion":
        this.#complete(idLow, idHigh, status);
        break;
      case "stray-completion":
        this.#complete(idLow ^ STRAY_ID_BITS, idHigh, status);
        break;
      case "failed-completion":
        this.#complete(idLow, idHigh, NvspStatus.failure);
        return;
      case undefined:
    }
    this.#complete(idLow, idHigh, status);
  }

  #completeLater(delayMs: number, idLow: number, idHigh: number, status: NvspStatus): void {
    const timer = this.#context.timers.after(delayMs, () => {
      this.#late.delete(timer);
      this.#complete(idLow, idHigh, status);
      this.#context.schedule();
    });
    this.#late.add(timer);
  }

  #complete(idLow: number, idHigh: number, status: NvspStatus): void {
    const words = this.#words;
    const bytes = this.#session.packetBytes;
    words[0] = NvspType.sendRndisPacketComplete;
    words[1] = status;
    for (let word = 2; word < bytes >>> 2; word++) words[word] = 0;
    this.#put(PacketType.completion, idLow, idHigh, bytes);
  }

  #put(type: PacketType, idLow: number, idHigh: number, lengthBytes: number): void {
    const channel = this.#channel;
    if (channel === undefined || channel.isClosed() || this.#queue.isFull) return;
    this.#queue.put(channel, type, idLow, idHigh, this.#words, lengthBytes);
    if (this.#queue.waiting > 0) this.#counters.completionsDelayed++;
  }

  #sendFault(): FaultAt<"device.complete"> | FaultAt<"network.complete"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("device.complete") && !faults.isArmed("network.complete")) return undefined;
    const fault =
      faults.at("network.complete", this.#fault) ?? faults.at("device.complete", this.#fault);
    if (fault !== undefined) this.#counters.faults++;
    return fault;
  }
}
