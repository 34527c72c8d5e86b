import type { Timers } from "@hyperv-is/vmbus-core";
import type { FaultContext } from "../faults.js";
import { FaultPlan } from "../faults.js";
import type { Frame } from "./frame.js";
import { Ethernet } from "./frame-headers.js";
import { HeldFramePool } from "./held-frame.js";
import { isGroupAddress, macHigh, macLow } from "./mac-address.js";
import { MacTable } from "./mac-table.js";
import { Port } from "./port.js";
import type { PortEnd, PortOptions } from "./switch-port.js";

/** Addresses that a switch learns at most. */
const LEARNED_MAX = 4096;

/** An address that was not seen for so long is forgotten. */
const LEARNED_FOR_MS = 300_000;

const ASSIGNED_MAX = 1024;

/** What a switch needs of its thread. */
export interface VirtualSwitchOptions {
  readonly timers: Timers;
  readonly faults?: FaultPlan;
  /** 4096 unless told. */
  readonly learnedMax?: number;
}

/**
 * A virtual Ethernet switch as Hyper-V's is: it knows the addresses of its guests, which may send from no other;
 * frames to an address that it does not know go to the external ports and to those that may have any.
 *
 * What a receiver does not do itself (segmentation, checksums, VLAN tags) is done for it, and nothing else.
 */
export class VirtualSwitch {
  readonly timers: Timers;
  readonly pool = new HeldFramePool();
  /** Frames to an address that were sent to more ports than one, for want of knowing better. */
  floods = 0;
  readonly #faults: FaultPlan;
  /** By their numbers, which addresses are kept with; gone ones are undefined. */
  readonly #ports: (Port | undefined)[] = [];
  readonly #assigned = new MacTable(ASSIGNED_MAX);
  readonly #learned: MacTable;
  /** Ports with frames since the last flush: the first of these. The list keeps its length, and so its memory. */
  readonly #delivered: Port[] = [];
  #deliveredCount = 0;
  /** When the batch began, in whole milliseconds: numbers with a fraction would be put on the heap for each frame. */
  #batchMs: number | undefined;

  constructor(options: VirtualSwitchOptions) {
    this.timers = options.timers;
    this.#faults = options.faults ?? FaultPlan.none(options.timers);
    this.#learned = new MacTable(options.learnedMax ?? LEARNED_MAX);
  }

  /** The ports, oldest first. */
  get ports(): readonly Port[] {
    return this.#ports.filter((port) => port !== undefined);
  }

  /**
   * Makes a port.
   *
   * @param device - whose port it is, for fault plans that name a device.
   * Throws a RangeError if the assigned address is taken, or is none.
   */
  connect(
    end: PortEnd,
    options: PortOptions,
    device: Pick<FaultContext, "classId" | "instanceId"> = {},
  ): Port {
    const free = this.#ports.indexOf(undefined);
    const number = free < 0 ? this.#ports.length : free;
    const port = new Port(this, this.#faults, number, end, options, device);
    const { mac } = port;
    if (mac !== undefined) {
      const [high, low] = [macHigh(mac, 0), macLow(mac, 0)];
      if (this.#assigned.find(0, high, low, 0) >= 0)
        throw new RangeError(`another port has the address of port ${options.name}`);
      this.#assigned.learn(0, high, low, number, 0, 0);
    }
    this.#ports[number] = port;
    return port;
  }

  /** For ports: one is closed. */
  remove(port: Port): void {
    this.#ports[port.number] = undefined;
    this.#assigned.forgetPort(port.number);
    this.#learned.forgetPort(port.number);
  }

  /** For ports: forgets what was learned at one. */
  forgetLearned(port: Port): void {
    this.#learned.forgetPort(port.number);
  }

  /** For ports: passes on a frame that is allowed in. @param vlan - that it is in. */
  forward(from: Port, frame: Frame, vlan: number): void {
    const { bytes } = frame.head;
    if (from.learnsAddresses) this.#learn(from, bytes, vlan);
    if (isGroupAddress(bytes)) {
      for (const port of this.#ports)
        if (port !== undefined && port !== from) this.#deliver(port, frame, vlan);
      return;
    }
    const to = this.#find(bytes, vlan);
    if (to !== undefined) {
      // A frame never goes back to where it came from.
      if (to !== from) this.#deliver(to, frame, vlan);
      return;
    }
    this.floods++;
    for (const port of this.#ports)
      if (port !== undefined && port !== from && port.learnsAddresses)
        this.#deliver(port, frame, vlan);
  }

  /** The batch of a sender has ended: the receivers publish what they got. */
  flush(): void {
    // Whoever is flushed may not send, but may be closed.
    for (let index = 0; index < this.#deliveredCount; index++) this.#delivered[index]!.flush();
    this.#deliveredCount = 0;
    this.#batchMs = undefined;
  }

  /** For ports: one has got its first frame since the last flush. */
  willFlush(port: Port): void {
    this.#delivered[this.#deliveredCount++] = port;
  }

  #deliver(port: Port, frame: Frame, vlan: number): void {
    if (port.vlans.has(vlan)) port.deliver(frame, vlan);
  }

  #learn(from: Port, bytes: Uint8Array, vlan: number): void {
    const high = macHigh(bytes, Ethernet.source);
    const low = macLow(bytes, Ethernet.source);
    // A group sends nothing, and an assigned address is where it is.
    if ((high & 0x100) !== 0 || this.#assigned.find(0, high, low, 0) >= 0) return;
    const nowMs = this.#nowMs();
    this.#learned.learn(vlan, high, low, from.number, nowMs, nowMs - LEARNED_FOR_MS);
  }

  #find(bytes: Uint8Array, vlan: number): Port | undefined {
    const high = macHigh(bytes, Ethernet.destination);
    const low = macLow(bytes, Ethernet.destination);
    const assigned = this.#port(this.#assigned.find(0, high, low, 0));
    if (assigned?.vlans.has(vlan) === true) return assigned;
    const sinceMs = this.#nowMs() - LEARNED_FOR_MS;
    return this.#port(this.#learned.find(vlan, high, low, sinceMs));
  }

  #nowMs(): number {
    return (this.#batchMs ??= Math.floor(this.timers.now()));
  }

  #port(number: number): Port | undefined {
    return number < 0 ? undefined : this.#ports[number];
  }
}
