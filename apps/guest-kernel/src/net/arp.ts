import { Machine, type Timers } from "@hyperv-is/vmbus-core";
import {
  ANY_ADDRESS,
  BROADCAST_MAC,
  MAC_BYTES,
  formatAddress,
  formatMac,
  isHostAddress,
  isStationMac,
} from "./addresses.js";
import {
  ARP_TIMES,
  stepArpEntry,
  type ArpEntryEffect,
  type ArpEntryInput,
  type ArpEntryState,
  type ArpTimes,
} from "./arp-entry.js";
import { getU16, getU32, getU8, putU16, putU32 } from "./network-order.js";
import { Arp, ArpOperation, EtherType, Ethernet } from "./protocol.js";

/** What the ARP of an interface needs of its interface. */
export interface ArpLink {
  /** The interface's name, for messages. */
  readonly name: string;
  readonly macAddress: Uint8Array;
  /** Sends a frame, as `NetworkInterface.transmit` does; what becomes of it is the link's to count. */
  transmit(frame: Uint8Array, checksums: number): boolean;
  /** True for an address that the interface answers for. */
  hasAddress(address: number): boolean;
  /** The source address for a request about `target`; undefined while the interface has none. */
  sourceFor(target: number): number | undefined;
  /** A station sent ARP with an address of ours, or one that we probe for. @param isProbe - It only asks for it. */
  claimed(address: number, mac: string, isProbe: boolean): void;
  log(line: string): void;
}

/** One line of `arp -a`. */
export interface ArpEntryView {
  readonly address: number;
  /** Undefined while it is not known. */
  readonly mac: string | undefined;
  readonly expiresInMs: number;
}

export interface ArpCounters {
  requestsSent: number;
  requestsReceived: number;
  repliesSent: number;
  repliesReceived: number;
  /** Messages of other stations that have an address of ours. */
  duplicates: number;
  /** What was no ARP for IPv4 over Ethernet, or came from nobody. */
  malformed: number;
  /** Packets dropped since their neighbour did not answer. */
  dropped: number;
  /** Entries that went to make room for others. */
  evicted: number;
}

/** Frames that wait for one neighbour; FreeBSD's `maxhold`. */
const HELD_MAX = 16;
/** Neighbours that are known at the same time: a stranger who makes up addresses must not fill the memory. */
const ENTRIES_MAX = 1024;

class Entry {
  readonly address: number;
  readonly machine: Machine<ArpEntryState, ArpEntryInput, ArpEntryEffect>;
  /** Frames without their destination, and the checksums that the device is to fill in. */
  readonly held: { readonly frame: Uint8Array; readonly checksums: number }[] = [];
  /** The bytes of the address, while it is known. */
  readonly mac = new Uint8Array(MAC_BYTES);

  constructor(
    address: number,
    timers: Timers,
    times: ArpTimes,
    carryOut: (entry: Entry, effect: ArpEntryEffect) => void,
  ) {
    this.address = address;
    this.machine = new Machine<ArpEntryState, ArpEntryInput, ArpEntryEffect>(
      timers,
      { name: "absent" },
      (state, input, now) => stepArpEntry(state, input, now, times),
      (effect) => carryOut(this, effect),
    );
  }
}

/** Address resolution on one Ethernet interface: the cache, and the answers to requests of others. */
export class ArpCache {
  readonly counters: ArpCounters = {
    requestsSent: 0,
    requestsReceived: 0,
    repliesSent: 0,
    repliesReceived: 0,
    duplicates: 0,
    malformed: 0,
    dropped: 0,
    evicted: 0,
  };
  readonly #link: ArpLink;
  readonly #timers: Timers;
  readonly #times: ArpTimes;
  readonly #entries = new Map<number, Entry>();
  readonly #frame = new Uint8Array(Ethernet.HEADER_BYTES + Arp.SIZE);

  constructor(link: ArpLink, timers: Timers, times: ArpTimes = ARP_TIMES) {
    this.#link = link;
    this.#timers = timers;
    this.#times = times;
  }

  /**
   * Sends a frame that has everything but its destination to a neighbour, or keeps a copy until that is known.
   * @param frame - Bytes of an Ethernet frame; its destination is overwritten. @param checksums - As for `NetworkDevice.send`.
   */
  send(
    address: number,
    frame: Uint8Array,
    checksums: number,
  ): "sent" | "held" | "EHOSTDOWN" | "ENOBUFS" {
    const entry = this.#entries.get(address) ?? this.#add(address);
    const { machine, held, mac } = entry;
    if (machine.state.name === "reachable") {
      frame.set(mac, Ethernet.destination);
      return this.#link.transmit(frame, checksums) ? "sent" : "ENOBUFS";
    }
    machine.input({ kind: "wanted" });
    if (machine.state.name === "down") return "EHOSTDOWN";
    if (held.length === HELD_MAX) {
      held.shift();
      this.counters.dropped++;
    }
    held.push({ frame: frame.slice(), checksums });
    return "held";
  }

  /** Takes what came in an ARP frame; any bytes may have. */
  input(frame: Uint8Array): void {
    const at = Ethernet.HEADER_BYTES;
    if (
      frame.byteLength < at + Arp.SIZE ||
      getU16(frame, at + Arp.hardwareType) !== 1 ||
      getU16(frame, at + Arp.protocolType) !== EtherType.ipv4 ||
      getU8(frame, at + Arp.hardwareLength) !== MAC_BYTES ||
      getU8(frame, at + Arp.protocolLength) !== 4 ||
      !isStationMac(frame, at + Arp.senderMac)
    ) {
      this.counters.malformed++;
      return;
    }
    const operation = getU16(frame, at + Arp.operation);
    if (operation === ArpOperation.request) this.counters.requestsReceived++;
    else if (operation === ArpOperation.reply) this.counters.repliesReceived++;
    else {
      this.counters.malformed++;
      return;
    }
    const link = this.#link;
    const mac = formatMac(frame, at + Arp.senderMac);
    if (mac === formatMac(link.macAddress)) return;
    const sender = getU32(frame, at + Arp.senderAddress);
    const target = getU32(frame, at + Arp.targetAddress);
    const forUs = link.hasAddress(target);
    if (sender === ANY_ADDRESS) {
      if (operation === ArpOperation.request) link.claimed(target, mac, true);
    } else {
      link.claimed(sender, mac, false);
      if (link.hasAddress(sender)) this.counters.duplicates++;
      else if (isHostAddress(sender)) this.#told(sender, mac, frame, forUs);
    }
    if (operation === ArpOperation.request && forUs) {
      this.counters.repliesSent++;
      this.#emit(ArpOperation.reply, target, frame, at + Arp.senderMac, sender);
    }
  }

  /** Asks who has an address, as nobody: for an address that is not ours yet (RFC 5227). */
  probe(target: number): void {
    this.counters.requestsSent++;
    this.#emit(ArpOperation.request, ANY_ADDRESS, undefined, 0, target);
  }

  /** Tells everybody that an address is ours: a request about itself. */
  announce(address: number): void {
    this.counters.requestsSent++;
    this.#emit(ArpOperation.request, address, undefined, 0, address);
  }

  /** What the cache holds, by address. */
  entries(): ArpEntryView[] {
    const now = this.#timers.now();
    return [...this.#entries.values()]
      .sort((left, right) => left.address - right.address)
      .flatMap(({ address, machine: { state } }) =>
        state.name === "absent"
          ? []
          : [
              {
                address,
                mac: state.name === "reachable" ? state.mac : undefined,
                expiresInMs: Math.max(0, state.deadline - now),
              },
            ],
      );
  }

  /** Forgets an entry. @returns False if there is none. */
  delete(address: number): boolean {
    const entry = this.#entries.get(address);
    entry?.machine.input({ kind: "delete" });
    return entry !== undefined;
  }

  /** Forgets everything: the interface goes down, or away. */
  clear(): void {
    for (const address of [...this.#entries.keys()]) this.delete(address);
  }

  #told(address: number, mac: string, frame: Uint8Array, forUs: boolean): void {
    let entry = this.#entries.get(address);
    if (entry === undefined) {
      if (!forUs) return;
      entry = this.#add(address);
    }
    const at = Ethernet.HEADER_BYTES + Arp.senderMac;
    entry.mac.set(frame.subarray(at, at + MAC_BYTES));
    entry.machine.input({ kind: "told", mac, forUs });
  }

  #add(address: number): Entry {
    if (this.#entries.size >= ENTRIES_MAX) {
      this.counters.evicted++;
      this.delete(this.#entries.keys().next().value!);
    }
    const entry = new Entry(address, this.#timers, this.#times, this.#carryOut);
    this.#entries.set(address, entry);
    return entry;
  }

  readonly #carryOut = (entry: Entry, effect: ArpEntryEffect): void => {
    const { address, held, mac } = entry;
    switch (effect.kind) {
      case "request": {
        const source = this.#link.sourceFor(address);
        if (source === undefined) return;
        this.counters.requestsSent++;
        this.#emit(ArpOperation.request, source, undefined, 0, address);
        return;
      }
      case "deliver":
        for (const { frame, checksums } of held.splice(0)) {
          frame.set(mac, Ethernet.destination);
          this.#link.transmit(frame, checksums);
        }
        return;
      case "drop":
        this.counters.dropped += held.splice(0).length;
        return;
      case "moved":
        this.#link.log(
          `arp: ${formatAddress(address)} moved from ${effect.from} to ${effect.to} on ${this.#link.name}`,
        );
        return;
      case "forget":
        this.#entries.delete(address);
    }
  };

  /** Sends ARP of ours. @param peer - Bytes that hold the target's MAC address at `peerAt`; undefined to ask everybody. */
  #emit(
    operation: ArpOperation,
    source: number,
    peer: Uint8Array | undefined,
    peerAt: number,
    target: number,
  ): void {
    const frame = this.#frame;
    const { macAddress } = this.#link;
    const at = Ethernet.HEADER_BYTES;
    const peerMac = peer?.subarray(peerAt, peerAt + MAC_BYTES);
    frame.set(peerMac ?? BROADCAST_MAC, Ethernet.destination);
    frame.set(macAddress, Ethernet.source);
    putU16(frame, Ethernet.type, EtherType.arp);
    putU16(frame, at + Arp.hardwareType, 1);
    putU16(frame, at + Arp.protocolType, EtherType.ipv4);
    frame[at + Arp.hardwareLength] = MAC_BYTES;
    frame[at + Arp.protocolLength] = 4;
    putU16(frame, at + Arp.operation, operation);
    frame.set(macAddress, at + Arp.senderMac);
    putU32(frame, at + Arp.senderAddress, source);
    if (peerMac === undefined) frame.fill(0, at + Arp.targetMac, at + Arp.targetMac + MAC_BYTES);
    else frame.set(peerMac, at + Arp.targetMac);
    putU32(frame, at + Arp.targetAddress, target);
    this.#link.transmit(frame, 0);
  }
}
