import {
  TransmitOffload,
  TransmitResult,
  type EthernetPort,
  type EthernetUser,
  type Link,
  type NetvscInterface,
  type ReceivedFrame,
} from "@hyperv-is/hv-netvsc";
import { PacketFilter, TransmitChecksum } from "@hyperv-is/hv-netvsc/protocol";
import type { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { InterfaceOption } from "../interface-flags.js";
import {
  FrameChecksum,
  type DeviceCounters,
  type DeviceInput,
  type NetworkDevice,
} from "../network-device.js";
import { NetworkError } from "../network-error.js";
import { Ethernet, IpProtocol, Ipv4 } from "../protocol.js";
import { FrameBuffers } from "./frame-buffers.js";
import type { RelayedBatch } from "./frame-relay.js";
import {
  agreedCapabilities,
  hardwareAssist,
  HardwareAssist,
  INITIALLY_OFF,
  interfaceOptions,
} from "./hn-bits.js";
import {
  copyReceived,
  isEthernetFrame,
  receivedBytes,
  RECEIVED_BYTES_MAX,
  verifiedChecksums,
} from "./received-frame.js";

/** What the device uses of the driver. */
export interface HnDriver extends Pick<
  NetvscInterface,
  "address" | "mtu" | "link" | "parameters" | "setFilter" | "setMtu" | "counters"
> {
  /** The primary channel's; another one after a change of the MTU. */
  readonly port: EthernetPort;
}

export interface HnDeviceOptions {
  /** `hn0`. */
  readonly name: string;
  readonly netvsc: HnDriver;
  readonly memory: GuestMemory;
  /** For frames to send: that of the boot processor. */
  readonly allocator: PageAllocator;
  /** All ports are new. Resolves when each has a user. */
  readonly portsChanged: () => Promise<void>;
  /** The interface has another address. */
  readonly macAddressChanged?: ((mac: Uint8Array) => void) | undefined;
  /** A line for dmesg. */
  readonly log: (line: string) => void;
}

/** Frames that may be lent to the host at a time; those that are copied are not counted. */
const LENT_MAX = 64;
/** FreeBSD's `HN_MTU_MAX`. */
const MTU_MAX = 65_529;
const VLAN_TAG_BYTES = 4;

/** FreeBSD's name of each speed in bits per second. */
const mediaNames: ReadonlyMap<number, string> = new Map([
  [100e6, "100baseTX"],
  [1e9, "1000baseT"],
  [2.5e9, "2500Base-T"],
  [5e9, "5000Base-T"],
  [10e9, "10Gbase-T"],
]);
/** FreeBSD's driver says so whatever the speed is. */
const USUAL_MEDIA = "10Gbase-T";

/**
 * `hn0` as the guest's own stack has it, on the boot processor: sends on the primary channel, and gets the frames of all
 * channels. What the host offers to compute is left to it.
 */
export class HnDevice implements NetworkDevice, EthernetUser {
  readonly kind = "ethernet";
  readonly name: string;
  readonly macAddress: Uint8Array;
  readonly #options: HnDeviceOptions;
  readonly #offload = new TransmitOffload();
  readonly #received = new Uint8Array(RECEIVED_BYTES_MAX);
  #buffers: FrameBuffers;
  #input: DeviceInput | undefined;
  #port: EthernetPort | undefined;
  #wanted: number;
  #link: Link;
  #isUp = false;
  #isPromiscuous = false;
  /** Frames are being received: what is sent is published after them. */
  #isInBatch = false;
  #receiveErrors = 0;
  #receiveDrops = 0;
  #sendErrors = 0;

  constructor(options: HnDeviceOptions) {
    const { name, netvsc } = options;
    this.#options = options;
    this.name = name;
    this.macAddress = netvsc.address;
    this.#link = netvsc.link;
    this.#wanted = this.capabilities & ~INITIALLY_OFF;
    this.#buffers = this.#newBuffers();
  }

  get mtu(): number {
    return this.#options.netvsc.mtu;
  }

  get capabilities(): number {
    return interfaceOptions(agreedCapabilities(this.#options.netvsc.parameters));
  }

  get options(): number {
    return this.#wanted & this.capabilities;
  }

  /** `HardwareAssist` bits. */
  get hardwareAssist(): number {
    const { parameters } = this.#options.netvsc;
    return hardwareAssist(agreedCapabilities(parameters), this.#wanted);
  }

  get checksumOffloads(): number {
    const assist = this.hardwareAssist;
    let offloads = 0;
    if ((assist & HardwareAssist.ip) !== 0) offloads |= FrameChecksum.ip;
    if ((assist & HardwareAssist.udp4) !== 0) offloads |= FrameChecksum.data;
    return offloads;
  }

  get media(): string {
    if (!this.hasLink) return "Ethernet autoselect (none)";
    const name = mediaNames.get(this.#link.speed) ?? USUAL_MEDIA;
    return `Ethernet autoselect (${name} <full-duplex>)`;
  }

  get hasLink(): boolean {
    return this.#link.up;
  }

  /** `PacketFilter` bits that the host is told; FreeBSD's choice. */
  get filter(): number {
    if (!this.#isUp) return PacketFilter.none;
    if (this.#isPromiscuous) return PacketFilter.promiscuous;
    // Every interface is in the group of all hosts.
    return PacketFilter.directed | PacketFilter.broadcast | PacketFilter.allMulticast;
  }

  /** Who gets what is received. */
  connect(input: DeviceInput): void {
    this.#input = input;
  }

  /** Sends on this port from now on; its frames come here. */
  usePort(port: EthernetPort): void {
    this.#port = port;
    this.#isInBatch = false;
    port.user = this;
  }

  /** The link as the driver says that it is now. */
  linkChanged(link: Link): void {
    const changed = link.up !== this.#link.up;
    this.#link = link;
    if (changed) this.#input?.linkChanged();
  }

  send(frame: Uint8Array, checksums = 0): boolean {
    const sent = this.#port !== undefined && this.#send(this.#port, frame, checksums);
    if (!sent) this.#sendErrors++;
    return sent;
  }

  async setUp(up: boolean): Promise<void> {
    const before = this.#isUp;
    this.#isUp = up;
    try {
      await this.#options.netvsc.setFilter(this.filter);
    } catch (error) {
      this.#isUp = before;
      throw error;
    }
  }

  async setMtu(mtu: number): Promise<void> {
    const { netvsc, portsChanged } = this.#options;
    if (mtu > MTU_MAX) throw new NetworkError("EINVAL");
    if (mtu === this.mtu) return;
    const { port } = netvsc;
    try {
      await netvsc.setMtu(mtu);
    } finally {
      // The old MTU may be back, on new ports, or the interface gone.
      if (netvsc.port !== port) {
        this.#buffers.close();
        this.#buffers = this.#newBuffers();
        await portsChanged();
      }
      this.linkChanged(netvsc.link);
    }
  }

  setPromiscuous(promiscuous: boolean): void {
    this.#isPromiscuous = promiscuous;
    const { netvsc, log } = this.#options;
    netvsc.setFilter(this.filter).catch((error: unknown) => {
      log(`promiscuous mode: ${(error as Error).message}`);
    });
  }

  setOptions(options: number): void {
    this.#wanted = options & this.capabilities;
  }

  macAddressChanged(mac: Uint8Array): void {
    this.#options.macAddressChanged?.(mac);
  }

  async readCounters(): Promise<DeviceCounters> {
    const now = await this.#options.netvsc.counters();
    return {
      receivedPackets: now.rxPackets,
      receivedBytes: now.rxBytes,
      receiveErrors: now.malformed + this.#receiveErrors,
      receiveDrops: now.rxDropped + now.rsc_drop + this.#receiveDrops,
      sentPackets: now.txPackets,
      sentBytes: now.txBytes,
      sendErrors: now.send_failed + this.#sendErrors,
    };
  }

  /** Frames of another channel. */
  take({ frames, dropped }: RelayedBatch): void {
    this.#receiveDrops += dropped;
    this.#isInBatch = true;
    for (const { bytes, verdict } of frames) this.#deliver(bytes, verdict);
    this.#isInBatch = false;
    this.#port?.flush();
  }

  received(frame: ReceivedFrame): void {
    const { memory } = this.#options;
    this.#isInBatch = true;
    if (isEthernetFrame(frame)) {
      copyReceived(memory, frame, this.#received);
      this.#deliver(this.#received.subarray(0, receivedBytes(frame)), frame.verdict);
    } else this.#receiveErrors++;
    this.#port?.release(frame.ticket);
  }

  batchEnd(): void {
    // The driver publishes what the stack has sent meanwhile.
    this.#isInBatch = false;
  }

  transmitted(tag: number, released: boolean): void {
    this.#buffers.give(tag, released);
  }

  transmitReady(): void {
    // The stack does not wait: what finds no room is lost, as on a wire.
  }

  closed(): void {
    this.#port = undefined;
  }

  /** The device is gone. */
  close(): void {
    this.#port = undefined;
    this.#buffers.close();
  }

  #newBuffers(): FrameBuffers {
    const { memory, allocator, netvsc } = this.#options;
    const frameBytes = netvsc.mtu + Ethernet.HEADER_BYTES + VLAN_TAG_BYTES;
    return new FrameBuffers(memory, allocator, frameBytes, LENT_MAX);
  }

  #send(port: EthernetPort, frame: Uint8Array, checksums: number): boolean {
    if (frame.byteLength > this.mtu + Ethernet.HEADER_BYTES) return false;
    const buffer = this.#buffers.put(frame);
    if (buffer < 0) return false;
    this.#planOffload(frame, checksums);
    const result = port.transmit(this.#buffers.runs(buffer), this.#offload, buffer);
    if (result !== TransmitResult.lent) this.#buffers.give(buffer, true);
    if (!this.#isInBatch) port.flush();
    return result === TransmitResult.copied || result === TransmitResult.lent;
  }

  #planOffload(frame: Uint8Array, checksums: number): void {
    const offload = this.#offload;
    offload.clear();
    if (checksums === 0) return;
    const at = Ethernet.HEADER_BYTES;
    offload.checksum = TransmitChecksum.ipv4;
    if ((checksums & FrameChecksum.ip) !== 0) offload.checksum |= TransmitChecksum.ipHeader;
    if ((checksums & FrameChecksum.data) === 0) return;
    const isUdp = frame[at + Ipv4.protocol] === IpProtocol.udp;
    offload.checksum |= isUdp ? TransmitChecksum.udp : TransmitChecksum.tcp;
    offload.headerOffset = at + (frame[at + Ipv4.versionAndLength]! & 15) * 4;
  }

  #deliver(frame: Uint8Array, verdict: number): void {
    const trusts = (this.#wanted & InterfaceOption.rxcsum) !== 0;
    this.#input?.input(frame, verifiedChecksums(verdict, trusts));
  }
}
