// A driver of the test's echo device: sends numbered packets as fast as the ring takes them, and checks
// that each comes back once, in order, with every bit inverted.
import { KERNEL_INTERFACE, SendResult } from "@hyperv-is/vmbus-core";
import { PacketType, PACKET_FLAG_COMPLETION_REQUESTED } from "@hyperv-is/vmbus-core/protocol";
import { checkPacket, payloadWord, payloadWords } from "./payload.js";

/** @import { Channel, ChannelClosedReason, ChannelCounters, ChannelDescription, QueueContext } from "@hyperv-is/vmbus-core" */

export const name = "echo";
export const version = "1.0.0";
export const kernelInterface = KERNEL_INTERFACE;
export const deviceName = "echo";

/** @returns {string | undefined} */
export function probe() {
  return undefined;
}

/** @returns {Promise<void>} */
export async function control() {
  throw new Error("the machine opens the channel");
}

/**
 * @typedef {object} EchoDescription
 * @property {ChannelDescription} channel
 * @property {number} seed
 * @property {number} packets
 * @property {number} leastWords shortest payload
 * @property {number} mostWords longest payload
 */

/** @typedef {{ reason: string, echoed: number, counters: ChannelCounters, error: string | undefined }} EchoResult */

/**
 * @param {QueueContext} context
 * @param {unknown} description
 */
export function queue(context, description) {
  return new EchoQueue(context, /** @type {EchoDescription} */ (description));
}

export class EchoQueue {
  /** @type {Promise<EchoResult>} */
  finished;
  /** Resolves when the host has sent a packet that is no answer. @type {Promise<void>} */
  greeted;
  #sent = 0;
  #echoed = 0;
  #words = new Int32Array(2048);
  #context;
  #description;
  /** @type {Channel} */
  #channel;
  /** @type {(result: EchoResult) => void} */
  #finish = () => undefined;
  /** @type {() => void} */
  #greet = () => undefined;

  /**
   * @param {QueueContext} context
   * @param {EchoDescription} description
   */
  constructor(context, description) {
    this.#context = context;
    this.#description = description;
    this.finished = new Promise((resolve) => (this.#finish = resolve));
    this.greeted = new Promise((resolve) => (this.#greet = resolve));
    this.#channel = context.bindChannel(description.channel, this);
  }

  get echoed() {
    return this.#echoed;
  }

  start() {
    this.#send();
  }

  /** @returns {undefined} */
  answer() {
    return undefined;
  }

  /** @param {ChannelClosedReason} [reason] */
  stop(reason) {
    this.#context.unbindChannel(this.#description.channel, reason);
  }

  /** @param {Channel} channel */
  packet(channel) {
    const { type, idLow } = channel.incoming;
    if (type === PacketType.inBand) return this.#greet();
    if (type !== PacketType.completion) throw new Error(`packet of type ${type}`);
    if (idLow !== this.#echoed) throw new Error(`packet ${idLow} instead of ${this.#echoed}`);
    checkPacket(this.#description, channel, this.#words, -1);
    this.#echoed++;
  }

  batchEnd() {
    this.#send();
    if (this.#echoed === this.#description.packets)
      this.#context.unbindChannel(this.#description.channel);
  }

  spaceArrived() {
    this.#send();
  }

  /**
   * @param {Channel} channel
   * @param {ChannelClosedReason} reason
   */
  closed({ counters, error }, reason) {
    this.#finish({ reason, echoed: this.#echoed, counters, error: error?.code });
  }

  #send() {
    const { seed, packets } = this.#description;
    const channel = this.#channel;
    while (this.#sent < packets) {
      const count = payloadWords(this.#description, this.#sent);
      const bytes = 16 + count * 4;
      const flags = PACKET_FLAG_COMPLETION_REQUESTED;
      const result = channel.begin(PacketType.inBand, flags, 16, bytes, this.#sent, 0);
      if (result === SendResult.Corrupt) return;
      if (result === SendResult.Full) {
        if (channel.waitForSpace(bytes)) continue;
        return;
      }
      for (let index = 0; index < count; index++)
        channel.outgoing.putU32(payloadWord(seed, this.#sent, index));
      channel.outgoing.end();
      this.#sent++;
    }
    channel.flush();
  }
}
