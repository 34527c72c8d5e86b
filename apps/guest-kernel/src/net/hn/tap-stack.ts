import { Offload, type Link, type NetvscInterface } from "@hyperv-is/hv-netvsc";
import { Tap, TapOffload } from "@hyperv-is/platform-node";
import type { NicStack, PortStack } from "./nic-stack.js";

const LINK_HEADER_BYTES = 18;
const EVERY_CHECKSUM = Offload.tcp4 | Offload.udp4 | Offload.tcp6 | Offload.udp6;

type TapNicStack = NicStack & { readonly kind: "tap" };

/** Throws `PlatformError`, as `Tap.open` does, if such a TAP cannot be had. */
export function checkTap({ name, netns }: TapNicStack): void {
  Tap.open({ name, ...(netns !== undefined && { netns }) }).close();
}

/**
 * Linux as the network stack of an interface: a TAP with a queue for each of its channels. It has the interface's address,
 * MTU and link, and leaves to it what was agreed with the host: checksums, and TCP super-frames as long as that takes them.
 */
export class TapStack {
  readonly #netvsc: NetvscInterface;
  readonly #stack: TapNicStack;
  #macAddress: Uint8Array;
  #tap: Tap;

  /** Makes the TAP. Throws `PlatformError` as `Tap.open` does. */
  constructor(netvsc: NetvscInterface, stack: TapNicStack) {
    this.#netvsc = netvsc;
    this.#stack = stack;
    this.#macAddress = netvsc.address;
    this.#tap = this.#open();
  }

  /** The ports are new. What was asked of the TAP for the old ones is asked again. */
  renew(): void {
    const { mtu, channels } = this.#netvsc;
    if (channels.length === this.#tap.queues.length) {
      this.#tap.mtu = mtu;
      return;
    }
    this.#tap.close();
    this.#tap = this.#open();
  }

  /** What the CPU of a channel, the one at `index` in the list of them, needs. */
  portOf(index: number): PortStack {
    return { kind: "tap", queue: this.#tap.queues[index]!, mtu: this.#netvsc.mtu };
  }

  /** Has Linux have another address. Throws `ERR_TAP` if it does not want it. */
  setMacAddress(mac: Uint8Array): void {
    this.#tap.macAddress = mac;
    this.#macAddress = mac;
  }

  linkChanged({ up }: Link): void {
    this.#tap.setCarrier(up);
  }

  /** Removes the TAP. Nobody may be at its queues any more. Idempotent. */
  close(): void {
    this.#tap.close();
  }

  #open(): Tap {
    const { mtu, channels, parameters, link } = this.#netvsc;
    const { transmitChecksums, largeSend4BytesMax, largeSend6BytesMax } = parameters.offloads;
    const { name, netns } = this.#stack;
    let offload = 0;
    const largeSends = [largeSend4BytesMax, largeSend6BytesMax].filter((bytes) => bytes > 0);
    // Linux leaves all checksums to its reader or none, and segmentation only with them.
    if ((transmitChecksums & EVERY_CHECKSUM) === EVERY_CHECKSUM) {
      offload |= TapOffload.checksum;
      if (largeSend4BytesMax > 0) offload |= TapOffload.tso4;
      if (largeSend6BytesMax > 0) offload |= TapOffload.tso6;
    }
    const tap = Tap.open({
      name,
      offload,
      mtu,
      macAddress: this.#macAddress,
      queues: channels.length,
      ...(netns !== undefined && { netns }),
      ...(largeSends.length > 0 && { gsoMaxBytes: Math.min(...largeSends) - LINK_HEADER_BYTES }),
    });
    tap.isUp = true;
    tap.setCarrier(link.up);
    return tap;
  }
}
