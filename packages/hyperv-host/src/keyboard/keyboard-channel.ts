import { SendResult, type Channel } from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import type { HostChannelHandler, HostService } from "../host-service.js";
import { KEYBOARD_VERSION, KeyboardMessage, KeyboardPacket } from "./keyboard-protocol.js";

const RESPONSE_BYTES = Packet.descriptorBytes + KeyboardPacket.SIZE;

/** The channel of a keyboard on which nobody types. */
class KeyboardChannel implements HostChannelHandler {
  /** The message that is handled, and then the answer to it. */
  readonly #bytes = new Uint8Array(KeyboardPacket.SIZE);
  readonly #words = new Int32Array(this.#bytes.buffer);
  readonly #view = new DataView(this.#bytes.buffer);
  #isAccepted = false;
  /** An answer has no room yet. */
  #isWaiting = false;

  opened(): void {
    // The guest speaks first.
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    if (incoming.type !== PacketType.inBand) {
      this.#stop(channel, "keyboard-packet-type", `a packet of type ${incoming.type}`);
      return;
    }
    const bytes = incoming.payloadBytes;
    if (bytes < KeyboardPacket.SIZE) {
      this.#stop(channel, "keyboard-packet-short", `${bytes} bytes`);
      return;
    }
    incoming.readWords(incoming.headerBytes, this.#words, 0, this.#words.length);
    const type = this.#view.getUint32(KeyboardPacket.type, true);
    switch (type) {
      case KeyboardMessage.protocolRequest:
        this.#negotiate(channel, this.#view.getUint32(KeyboardPacket.version, true));
        return;
      case KeyboardMessage.setLedIndicators:
        if (!this.#isAccepted)
          this.#stop(channel, "keyboard-packet-order", "lights before a version is agreed on");
        return;
      default:
        this.#stop(channel, "keyboard-message-type", `message ${type}`);
    }
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(channel: Channel): void {
    this.#respond(channel);
  }

  closed(): void {
    // Nothing is kept.
  }

  release(done: () => void): void {
    done();
  }

  save(): { readonly data: unknown } | undefined {
    return this.#isWaiting ? undefined : { data: this.#isAccepted };
  }

  restore(data: unknown): void {
    this.#isAccepted = data === true;
  }

  /** A guest that was refused may ask again; one that was accepted has no more to ask. */
  #negotiate(channel: Channel, version: number): void {
    if (this.#isAccepted) {
      this.#stop(channel, "keyboard-packet-order", "a second agreement on a version");
      return;
    }
    this.#isAccepted = version === KEYBOARD_VERSION;
    this.#view.setUint32(KeyboardPacket.type, KeyboardMessage.protocolResponse, true);
    this.#view.setUint32(KeyboardPacket.accepted, this.#isAccepted ? 1 : 0, true);
    this.#respond(channel);
  }

  /** Sends the answer; without room for it the guest is not heard until there is. */
  #respond(channel: Channel): void {
    const { inBand } = PacketType;
    do {
      const result = channel.begin(inBand, 0, Packet.descriptorBytes, RESPONSE_BYTES, 0, 0);
      if (result === SendResult.Ready) {
        channel.outgoing.putBytes(this.#bytes, 0, KeyboardPacket.SIZE);
        channel.outgoing.end();
        channel.resume();
      }
      this.#isWaiting = result === SendResult.Full;
      if (!this.#isWaiting) return;
    } while (channel.waitForSpace(RESPONSE_BYTES));
    channel.pause();
  }

  #stop(channel: Channel, rule: string, detail: string): void {
    channel.fail(`ERR_${rule.toUpperCase().replaceAll("-", "_")}`, detail);
  }
}

/**
 * The synthetic keyboard: agrees on a version, takes the lights, and has no keys to report.
 *
 * It must answer: FreeBSD's driver waits for the version without limit while it attaches, so that a silent
 * keyboard keeps the whole system from booting.
 */
export const keyboardService: HostService = {
  open: () => new KeyboardChannel(),
};
