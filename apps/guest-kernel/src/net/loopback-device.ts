import type { Timers } from "@hyperv-is/vmbus-core";
import { InterfaceOption } from "./interface-flags.js";
import type { DeviceCounters, DeviceInput, NetworkDevice } from "./network-device.js";
import { MAC_BYTES } from "./addresses.js";

/** Frames on their way; more are dropped, as FreeBSD's queue does. */
const QUEUE_MAX = 256;
/** FreeBSD's `LOMTU`. */
const LOOPBACK_MTU = 16_384;

/** `lo0`: what is sent comes back, a moment later. */
export class LoopbackDevice implements NetworkDevice {
  readonly name = "lo0";
  readonly kind = "loopback";
  readonly macAddress: Uint8Array = new Uint8Array(MAC_BYTES);
  readonly capabilities =
    InterfaceOption.rxcsum | InterfaceOption.txcsum | InterfaceOption.linkstate;
  readonly checksumOffloads = 0;
  readonly media = "";
  readonly hasLink = true;
  readonly #counters = {
    receivedPackets: 0,
    receivedBytes: 0,
    receiveErrors: 0,
    receiveDrops: 0,
    sentPackets: 0,
    sentBytes: 0,
    sendErrors: 0,
  };
  readonly #timers: Timers;
  readonly #queue: Uint8Array[] = [];
  #mtu = LOOPBACK_MTU;
  #options: number = this.capabilities;
  #input: DeviceInput | undefined;

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  get mtu(): number {
    return this.#mtu;
  }

  get options(): number {
    return this.#options;
  }

  readCounters(): Promise<DeviceCounters> {
    return Promise.resolve({ ...this.#counters });
  }

  connect(input: DeviceInput): void {
    this.#input = input;
  }

  send(frame: Uint8Array): boolean {
    const counters = this.#counters;
    if (this.#queue.length >= QUEUE_MAX) {
      counters.receiveDrops++;
      return false;
    }
    counters.sentPackets++;
    counters.sentBytes += frame.byteLength;
    this.#queue.push(frame.slice());
    if (this.#queue.length === 1) this.#timers.after(0, () => this.#deliver());
    return true;
  }

  setUp(): Promise<void> {
    return Promise.resolve();
  }

  setMtu(mtu: number): Promise<void> {
    this.#mtu = mtu;
    return Promise.resolve();
  }

  setPromiscuous(): void {
    // Everything comes back anyway.
  }

  setOptions(options: number): void {
    this.#options = options & this.capabilities;
  }

  #deliver(): void {
    for (const frame of this.#queue.splice(0)) {
      this.#counters.receivedPackets++;
      this.#counters.receivedBytes += frame.byteLength;
      this.#input?.input(frame);
    }
  }
}
