import { Machine, type Timers } from "@hyperv-is/vmbus-core";
import {
  CLAIM_TIMES,
  stepClaim,
  type ClaimEffect,
  type ClaimInput,
  type ClaimState,
  type ClaimTimes,
} from "./address-claim.js";
import {
  ALL_HOSTS_ADDRESS,
  BROADCAST_ADDRESS,
  formatAddress,
  isMacAt,
  isStationMac,
  networkBroadcast,
} from "./addresses.js";
import { ArpCache, type ArpLink } from "./arp.js";
import { InterfaceFlag } from "./interface-flags.js";
import type { DeviceInput, NetworkDevice } from "./network-device.js";
import { NetworkError } from "./network-error.js";
import { getU16, getU8 } from "./network-order.js";
import { EtherType, Ethernet } from "./protocol.js";
import { randomFraction, type Random } from "./random.js";

/** An IPv4 address of an interface. */
export interface InterfaceAddress {
  readonly address: number;
  readonly mask: number;
  /** Packets that came to it, and that went out with it as their source. */
  readonly received: PacketCount;
  readonly sent: PacketCount;
}

export interface PacketCount {
  packets: number;
  bytes: number;
}

/**
 * Who sees the frames of an interface. `frame` is valid during the call. `checksums`: `FrameChecksum` bits, going out of those that
 * the device fills in, coming in of those that it has verified.
 */
export type FrameTap = (frame: Uint8Array, direction: "in" | "out", checksums: number) => void;

/** What an interface needs of its stack. */
export interface InterfaceOwner {
  readonly timers: Timers;
  readonly random: Random;
  /**
   * An IPv4 packet, from `Ethernet.HEADER_BYTES` on.
   *
   * @param isBroadcast - It came to more stations than this one. @param verified - As for `DeviceInput.input`.
   */
  ipv4Input(
    from: NetworkInterface,
    frame: Uint8Array,
    isBroadcast: boolean,
    verified: number,
  ): void;
  log(line: string): void;
}

export interface LinkCounters {
  /** Frames too short for an Ethernet header. */
  short: number;
  /** Frames for other stations, which come when the interface is promiscuous. */
  notForUs: number;
  /** Frames of protocols that there are not. */
  unknownProtocol: number;
}

/** An interface of the stack: a driver's device with its addresses, its ARP and those who capture its frames. */
export class NetworkInterface implements DeviceInput {
  readonly device: NetworkDevice;
  /** `link#1` of `netstat -r`. */
  readonly index: number;
  readonly arp: ArpCache;
  readonly counters: LinkCounters = { short: 0, notForUs: 0, unknownProtocol: 0 };
  readonly #owner: InterfaceOwner;
  readonly #addresses: InterfaceAddress[] = [];
  readonly #claims = new Map<number, Machine<ClaimState, ClaimInput, ClaimEffect>>();
  readonly #taps = new Set<FrameTap>();
  readonly #linkListeners = new Set<(hasLink: boolean) => void>();
  #macAddress: Uint8Array;
  #isUp = false;
  /** Set by the administrator. */
  #wantsAllFrames = false;

  constructor(device: NetworkDevice, index: number, owner: InterfaceOwner) {
    this.device = device;
    this.index = index;
    this.#owner = owner;
    this.#macAddress = device.macAddress;
    const macAddress = (): Uint8Array => this.#macAddress;
    const link: ArpLink = {
      name: device.name,
      get macAddress() {
        return macAddress();
      },
      transmit: (frame, checksums) => this.transmit(frame, checksums),
      hasAddress: (address) => this.hasAddress(address),
      sourceFor: (target) => this.sourceFor(target)?.address,
      claimed: (address, mac, isProbe) =>
        this.#claims.get(address)?.input({ kind: isProbe ? "probed" : "used", mac }),
      log: (line) => owner.log(line),
    };
    this.arp = new ArpCache(link, owner.timers);
  }

  get name(): string {
    return this.device.name;
  }

  /** The address by which the link knows the interface; 6 bytes. */
  get macAddress(): Uint8Array {
    return this.#macAddress;
  }

  get isLoopback(): boolean {
    return this.device.kind === "loopback";
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  /** Addresses, in the order in which they were added. */
  get addresses(): readonly InterfaceAddress[] {
    return this.#addresses;
  }

  /** FreeBSD's flags, see `InterfaceFlag`. */
  get flags(): number {
    const kind = this.isLoopback
      ? InterfaceFlag.loopback
      : InterfaceFlag.broadcast | InterfaceFlag.simplex;
    return (
      kind |
      InterfaceFlag.multicast |
      (this.#isUp ? InterfaceFlag.up | InterfaceFlag.running : 0) |
      (this.#isPromiscuous ? InterfaceFlag.promiscuous : 0)
    );
  }

  async setUp(up: boolean): Promise<void> {
    if (up === this.#isUp) return;
    await this.device.setUp(up);
    this.#isUp = up;
    if (up) this.#claimAll();
    else this.arp.clear();
  }

  /**
   * Has the interface be another station of its link, and tells the others. Whether they hear of it is the network's affair.
   * Throws `EINVAL` for what is no station's address, `ENODEV` on a loopback.
   */
  setMacAddress(mac: Uint8Array): void {
    if (this.isLoopback) throw new NetworkError("ENODEV");
    if (!isStationMac(mac)) throw new NetworkError("EINVAL");
    this.#macAddress = mac.slice();
    this.device.macAddressChanged?.(this.#macAddress);
    if (this.#isUp) this.#claimAll();
  }

  hasAddress(address: number): boolean {
    for (const own of this.#addresses) if (own.address === address) return true;
    return false;
  }

  /** Our address on the network that `target` is on; else the first one. */
  sourceFor(target: number): InterfaceAddress | undefined {
    for (const own of this.#addresses) if (((own.address ^ target) & own.mask) === 0) return own;
    return this.#addresses[0];
  }

  /** True for the addresses that all stations of the link have, and for a group that we are in. */
  isGroupAddress(address: number): boolean {
    if (address === BROADCAST_ADDRESS || address === ALL_HOSTS_ADDRESS) return true;
    return this.isNetworkBroadcast(address);
  }

  /** True for the broadcast address of a network that we are on. */
  isNetworkBroadcast(address: number): boolean {
    if (this.isLoopback) return false;
    for (const own of this.#addresses)
      if (own.mask < 0xffff_fffe && networkBroadcast(own.address, own.mask) === address)
        return true;
    return false;
  }

  /** Adds an address, and announces it. Throws `EEXIST` if it is there with another mask. */
  addAddress(address: number, mask: number): void {
    const known = this.#addresses.find((own) => own.address === address);
    if (known !== undefined) {
      if (known.mask === mask) return;
      throw new NetworkError("EEXIST");
    }
    this.#addresses.push({
      address,
      mask,
      received: { packets: 0, bytes: 0 },
      sent: { packets: 0, bytes: 0 },
    });
    this.arp.delete(address);
    if (this.#isUp) this.#claim(address).input({ kind: "take" });
  }

  /** Takes an address away. Throws `EADDRNOTAVAIL` if it is not there. */
  removeAddress(address: number): void {
    const at = this.#addresses.findIndex((own) => own.address === address);
    if (at < 0) throw new NetworkError("EADDRNOTAVAIL");
    this.#addresses.splice(at, 1);
    this.#claims.delete(address);
  }

  /**
   * Finds out whether another station has an address that is not ours yet.
   * @param answer - Gets the MAC address of that station, or undefined if none has answered.
   */
  probeAddress(
    address: number,
    times: ClaimTimes,
    answer: (usedBy: string | undefined) => void,
  ): void {
    const claim = this.#newClaim(address, times, (usedBy) => {
      this.#claims.delete(address);
      answer(usedBy);
    });
    this.#claims.set(address, claim);
    claim.input({ kind: "probe" });
  }

  /** Sends a frame, as `NetworkDevice.send` does. @returns False if the interface is down or cannot take it. */
  transmit(frame: Uint8Array, checksums = 0): boolean {
    if (!this.#isUp) return false;
    for (const tap of this.#taps) tap(frame, "out", checksums);
    return this.device.send(frame, checksums);
  }

  input(frame: Uint8Array, verified = 0): void {
    if (!this.#isUp) return;
    for (const tap of this.#taps) tap(frame, "in", verified);
    if (frame.byteLength < Ethernet.HEADER_BYTES) {
      this.counters.short++;
      return;
    }
    const isGroup = (getU8(frame, Ethernet.destination) & 1) !== 0;
    if (!isGroup && !isMacAt(frame, Ethernet.destination, this.#macAddress)) {
      this.counters.notForUs++;
      return;
    }
    const type = getU16(frame, Ethernet.type);
    if (type === EtherType.ipv4) this.#owner.ipv4Input(this, frame, isGroup, verified);
    else if (type === EtherType.arp && !this.isLoopback) this.arp.input(frame);
    else this.counters.unknownProtocol++;
  }

  linkChanged(): void {
    const { hasLink, name } = this.device;
    this.#owner.log(`${name}: link state changed to ${hasLink ? "UP" : "DOWN"}`);
    if (hasLink && this.#isUp) this.#claimAll();
    for (const listener of this.#linkListeners) listener(hasLink);
  }

  /** @returns Ends it. */
  onLink(listener: (hasLink: boolean) => void): () => void {
    this.#linkListeners.add(listener);
    return () => void this.#linkListeners.delete(listener);
  }

  /** Shows all frames to `tap`, and has the device be promiscuous meanwhile. @returns Ends it. */
  capture(tap: FrameTap): () => void {
    this.#changePromiscuous(() => this.#taps.add(tap));
    return () => this.#changePromiscuous(() => this.#taps.delete(tap));
  }

  /** Has the device receive frames for other stations, too, also when nobody captures. */
  setPromiscuous(wanted: boolean): void {
    this.#changePromiscuous(() => (this.#wantsAllFrames = wanted));
  }

  /** Forgets everything that would go on: the device is gone. */
  close(): void {
    this.#isUp = false;
    this.arp.clear();
    this.#claims.clear();
    this.#taps.clear();
    this.#linkListeners.clear();
  }

  get #isPromiscuous(): boolean {
    return this.#wantsAllFrames || this.#taps.size > 0;
  }

  #changePromiscuous(change: () => unknown): void {
    const before = this.#isPromiscuous;
    change();
    if (this.#isPromiscuous !== before) this.device.setPromiscuous(!before);
  }

  #claimAll(): void {
    for (const { address } of this.#addresses) this.#claim(address).input({ kind: "take" });
  }

  #claim(address: number): Machine<ClaimState, ClaimInput, ClaimEffect> {
    const known = this.#claims.get(address);
    if (known !== undefined) return known;
    const claim = this.#newClaim(address, CLAIM_TIMES, () => undefined);
    this.#claims.set(address, claim);
    return claim;
  }

  #newClaim(
    address: number,
    times: ClaimTimes,
    probed: (usedBy: string | undefined) => void,
  ): Machine<ClaimState, ClaimInput, ClaimEffect> {
    const { timers, random } = this.#owner;
    const claim: Machine<ClaimState, ClaimInput, ClaimEffect> = new Machine<
      ClaimState,
      ClaimInput,
      ClaimEffect
    >(
      timers,
      { name: "idle" },
      (state, input, now) => stepClaim(state, input, now, randomFraction(random), times),
      (effect) => {
        // One that was taken away may still have a timer.
        if (this.#claims.get(address) !== claim) return;
        switch (effect.kind) {
          case "send-probe":
            this.arp.probe(address);
            return;
          case "announce":
            if (this.hasAddress(address) && !this.isLoopback) this.arp.announce(address);
            return;
          case "usable":
            probed(undefined);
            return;
          case "in-use":
            probed(effect.mac);
            return;
          case "conflict":
            this.#owner.log(
              `arp: ${effect.mac} is using my IP address ${formatAddress(address)} on ${this.name}!`,
            );
        }
      },
    );
    return claim;
  }
}
