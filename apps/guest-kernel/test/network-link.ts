import type { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { InterfaceOption } from "../src/net/interface-flags.js";
import { InternetStack } from "../src/net/internet-stack.js";
import type { DeviceCounters, DeviceInput, NetworkDevice } from "../src/net/network-device.js";
import type { NetworkInterface } from "../src/net/network-interface.js";
import type { Random } from "../src/net/random.js";

/** Random bytes from a seed (xorshift32). */
export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b1) | 1;
  }

  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state >>> 0;
  }

  fill(target: Uint8Array): void {
    for (let at = 0; at < target.byteLength; at++) target[at] = this.next() >>> 24;
  }
}

/** An Ethernet segment: a frame reaches all other stations a moment after it was sent. */
export class Segment {
  readonly timers: VirtualTimers;
  readonly latencyMs: number;
  /** Each frame that was sent. */
  readonly frames: Uint8Array[] = [];
  /** Frames for which it is true get lost. */
  loses: (frame: Uint8Array) => boolean = () => false;
  readonly #stations: TestDevice[] = [];

  constructor(timers: VirtualTimers, latencyMs = 1) {
    this.timers = timers;
    this.latencyMs = latencyMs;
  }

  join(device: TestDevice): void {
    this.#stations.push(device);
  }

  carry(frame: Uint8Array, sender?: TestDevice): void {
    const copy = frame.slice();
    this.frames.push(copy);
    if (this.loses(copy)) return;
    this.timers.after(this.latencyMs, () => {
      for (const station of this.#stations) if (station !== sender) station.receive(copy);
    });
  }
}

/** A driver's device on a segment. */
export class TestDevice implements NetworkDevice {
  readonly name: string;
  readonly kind = "ethernet";
  readonly macAddress: Uint8Array;
  readonly capabilities =
    InterfaceOption.rxcsum |
    InterfaceOption.txcsum |
    InterfaceOption.vlanMtu |
    InterfaceOption.vlanHwtagging |
    InterfaceOption.tso4 |
    InterfaceOption.lro |
    InterfaceOption.linkstate;
  options = this.capabilities;
  /** A driver may offer to fill checksums in. */
  checksumOffloads = 0;
  /** What was asked to be filled in, of each frame. */
  readonly asked: number[] = [];
  readonly media = "Ethernet autoselect (10Gbase-T <full-duplex>)";
  readonly counters = {
    receivedPackets: 0,
    receivedBytes: 0,
    receiveErrors: 0,
    receiveDrops: 0,
    sentPackets: 0,
    sentBytes: 0,
    sendErrors: 0,
  };
  /** What it says of the checksums of received frames. */
  verified = 0;
  mtu = 1500;
  /** A driver may refuse an MTU. */
  mtuMax = 9000;
  hasLink = true;
  isPromiscuous = false;
  isFull = false;
  readonly #segment: Segment;
  #isUp = false;
  #input: DeviceInput | undefined;

  constructor(name: string, mac: readonly number[], segment: Segment) {
    this.name = name;
    this.macAddress = Uint8Array.from(mac);
    this.#segment = segment;
    segment.join(this);
  }

  connect(input: DeviceInput): void {
    this.#input = input;
  }

  readCounters(): Promise<DeviceCounters> {
    return Promise.resolve(this.counters);
  }

  setOptions(options: number): void {
    this.options = options & this.capabilities;
  }

  send(frame: Uint8Array, checksums = 0): boolean {
    this.asked.push(checksums);
    if (!this.#isUp || !this.hasLink || this.isFull) {
      this.counters.sendErrors++;
      return false;
    }
    if (frame.byteLength > this.mtu + 14) throw new RangeError("a frame longer than the MTU");
    this.counters.sentPackets++;
    this.counters.sentBytes += frame.byteLength;
    this.#segment.carry(frame, this);
    return true;
  }

  receive(frame: Uint8Array): void {
    if (!this.#isUp || !this.hasLink) return;
    const isForUs =
      (frame[0]! & 1) !== 0 || this.macAddress.every((byte, at) => frame[at] === byte);
    if (!isForUs && !this.isPromiscuous) return;
    this.counters.receivedPackets++;
    this.counters.receivedBytes += frame.byteLength;
    this.#input?.input(frame, this.verified);
  }

  setLink(hasLink: boolean): void {
    this.hasLink = hasLink;
    this.#input?.linkChanged();
  }

  setUp(up: boolean): Promise<void> {
    this.#isUp = up;
    return Promise.resolve();
  }

  setMtu(mtu: number): Promise<void> {
    if (mtu > this.mtuMax) return Promise.reject(new Error("Invalid argument"));
    this.mtu = mtu;
    return Promise.resolve();
  }

  setPromiscuous(promiscuous: boolean): void {
    this.isPromiscuous = promiscuous;
  }
}

/** A host with a stack and one interface, `hn0`, which is up. */
export interface TestHost {
  readonly stack: InternetStack;
  readonly device: TestDevice;
  readonly hn0: NetworkInterface;
  readonly log: string[];
}

/** @param number - Last byte of the MAC address, and the seed of the host's random numbers. */
export async function testHost(segment: Segment, number: number): Promise<TestHost> {
  const log: string[] = [];
  const stack = new InternetStack({
    timers: segment.timers,
    random: new SeededRandom(number),
    log: (line) => void log.push(line),
  });
  const device = new TestDevice("hn0", [0x00, 0x15, 0x5d, 0x0a, 0x14, number], segment);
  const hn0 = stack.attach(device);
  device.connect(hn0);
  await hn0.setUp(true);
  return { stack, device, hn0, log };
}

/** `00155d...`: bytes in hexadecimal. */
export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** Bytes from hexadecimal, with spaces. */
export function bytes(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
}
