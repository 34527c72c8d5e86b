import type { Timer } from "@hyperv-is/vmbus-core";
import type { FaultContext, FaultPlan } from "../faults.js";
import { BandwidthLimit } from "./bandwidth-limit.js";
import { completeChecksum } from "./checksum-offload.js";
import { Frame, NOT_CORRUPT, NO_VLAN_TAG } from "./frame.js";
import { FrameFaults, type FrameFault } from "./frame-faults.js";
import { Ethernet } from "./frame-headers.js";
import type { HeldFrame } from "./held-frame.js";
import { MAC_BYTES, macHigh, macLow } from "./mac-address.js";
import { TcpSegmenter, superFrameIpVersion } from "./segmentation.js";
import {
  newPortCounters,
  type PortCounters,
  type PortEnd,
  type PortOptions,
  type VlanMode,
} from "./switch-port.js";
import type { VirtualSwitch } from "./virtual-switch.js";
import { insertVlanTag, stripVlanTag } from "./vlan-tag.js";
import { VlanMembership } from "./vlan-membership.js";

/** Sees the frames of a port on both sides, as its end sends and gets them, before they are changed for anybody. */
export interface FrameObserver {
  /** Must not keep the frame. @param isSent - by the port's end. */
  observe(frame: Frame, isSent: boolean): void;
}

/** One port of a switch: what its end may send and gets, and the offloads that it lacks. */
export class Port {
  readonly name: string;
  /** In the switch. */
  readonly number: number;
  readonly kind: PortOptions["kind"];
  /** The assigned address. */
  readonly mac: Uint8Array | undefined;
  readonly counters: PortCounters = newPortCounters();
  readonly #switch: VirtualSwitch;
  readonly #end: PortEnd;
  readonly #faults: FrameFaults;
  readonly #bandwidth: BandwidthLimit | undefined;
  readonly #observers = new Set<FrameObserver>();
  readonly #segmenter = new TcpSegmenter();
  readonly #segment = new Frame();
  /** Frames that come later, with the timers that bring them. */
  readonly #late = new Map<Timer, HeldFrame>();
  readonly #macHigh: number;
  readonly #macLow: number;
  #vlans: VlanMembership;
  #allowMacSpoofing: boolean;
  #isLinkUp = true;
  #flap: Timer | undefined;
  #isClosed = false;
  #hasDelivered = false;

  constructor(
    owner: VirtualSwitch,
    faults: FaultPlan,
    number: number,
    end: PortEnd,
    options: PortOptions,
    device: Pick<FaultContext, "classId" | "instanceId">,
  ) {
    const { name, kind, mac, allowMacSpoofing = false, bandwidth } = options;
    if (kind === "guest" && mac === undefined)
      throw new RangeError(`the port ${name} of a guest has no address`);
    if (mac !== undefined && (mac.byteLength !== MAC_BYTES || (mac[0]! & 1) !== 0))
      throw new RangeError(`the address of port ${name} is none of one station`);
    this.#switch = owner;
    this.name = name;
    this.number = number;
    this.kind = kind;
    this.mac = mac;
    this.#macHigh = mac === undefined ? -1 : macHigh(mac, 0);
    this.#macLow = mac === undefined ? 0 : macLow(mac, 0);
    this.#end = end;
    this.#faults = new FrameFaults(faults, device);
    this.#allowMacSpoofing = allowMacSpoofing;
    this.#vlans = new VlanMembership(options.vlan ?? usualVlan(kind));
    this.#bandwidth =
      bandwidth &&
      new BandwidthLimit(
        bandwidth,
        owner.timers,
        owner.pool,
        (frame) => this.#enter(frame),
        () => owner.flush(),
      );
  }

  get vlans(): VlanMembership {
    return this.#vlans;
  }

  /** The port is put into other VLANs. */
  setVlan(vlan: VlanMode): void {
    this.#vlans = new VlanMembership(vlan);
    this.#switch.forgetLearned(this);
  }

  get allowMacSpoofing(): boolean {
    return this.#allowMacSpoofing;
  }

  set allowMacSpoofing(allow: boolean) {
    this.#allowMacSpoofing = allow;
    if (!this.learnsAddresses) this.#switch.forgetLearned(this);
  }

  /** Any address may be at this port. */
  get learnsAddresses(): boolean {
    return this.kind === "external" || this.#allowMacSpoofing;
  }

  get isLinkUp(): boolean {
    return this.#isLinkUp;
  }

  /** Plugs the cable in or out. */
  setLink(isUp: boolean): void {
    this.#flap?.cancel();
    this.#flap = undefined;
    this.#changeLink(isUp);
  }

  /** Has all frames of the port shown. */
  addObserver(observer: FrameObserver): void {
    this.#observers.add(observer);
  }

  removeObserver(observer: FrameObserver): void {
    this.#observers.delete(observer);
  }

  /** For the port's end: sends a frame, whose tag may be among its bytes or beside them. `flush` of the switch ends a batch. */
  send(frame: Frame): void {
    const { counters } = this;
    counters.framesSent++;
    counters.bytesSent += frame.lengthBytes;
    if (frame.headBytes < Ethernet.headerBytes) {
      counters.droppedShort++;
      return;
    }
    if (!this.#isLinkUp) {
      counters.droppedLinkDown++;
      return;
    }
    stripVlanTag(frame);
    for (const observer of this.#observers) observer.observe(frame, true);
    const { bytes } = frame.head;
    if (
      !this.learnsAddresses &&
      (macHigh(bytes, Ethernet.source) !== this.#macHigh ||
        macLow(bytes, Ethernet.source) !== this.#macLow)
    ) {
      counters.droppedSpoofed++;
      return;
    }
    const fault = this.#faults.transmit();
    if (fault !== undefined) this.#suffer(frame, fault, this.#limit);
    else this.#limit(frame);
  }

  /** For the switch: a frame goes to the port's end. */
  deliver(frame: Frame, vlan: number): void {
    if (!this.#isLinkUp) {
      this.counters.droppedLinkDown++;
      return;
    }
    const priorityTag = frame.vlanTag;
    frame.vlanTag = this.#vlans.tagOf(vlan, priorityTag);
    const fault = this.#faults.receive();
    if (fault !== undefined) this.#suffer(frame, fault, this.#fit);
    else this.#fit(frame);
    frame.vlanTag = priorityTag;
  }

  /** For the switch: the sender's batch has ended. */
  flush(): void {
    this.#hasDelivered = false;
    this.#end.flush();
  }

  /** Takes the port off its switch. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#flap?.cancel();
    this.#bandwidth?.close();
    for (const [timer, frame] of this.#late) {
      timer.cancel();
      this.#switch.pool.giveBack(frame);
    }
    this.#late.clear();
    this.#switch.remove(this);
  }

  /** Lets a frame in when the bandwidth allows it. */
  readonly #limit = (frame: Frame): void => {
    if (this.#bandwidth === undefined) this.#enter(frame);
    else if (!this.#bandwidth.offer(frame)) this.counters.droppedBandwidth++;
  };

  #enter(frame: Frame): void {
    const vlan = this.#vlans.enter(frame);
    if (vlan < 0) this.counters.droppedVlan++;
    else this.#switch.forward(this, frame, vlan);
  }

  /** Makes of a frame what the end takes. */
  readonly #fit = (frame: Frame): void => {
    const { offloads } = this.#end;
    const isCorrupt = frame.corruptAt !== NOT_CORRUPT;
    if (frame.segmentBytes > 0) {
      const isIpv4 = superFrameIpVersion(frame) === 4;
      if (!isCorrupt && (isIpv4 ? offloads.segmentation4 : offloads.segmentation6))
        this.#give(frame);
      else this.#cut(frame, offloads.partialChecksum && !isCorrupt);
      return;
    }
    if (frame.checksumStart !== 0 && (isCorrupt || !offloads.partialChecksum)) {
      this.counters.checksumsFilled++;
      completeChecksum(frame);
    }
    this.#give(frame);
  };

  #cut(frame: Frame, leavesPartial: boolean): void {
    const segment = this.#segment;
    this.counters.superFramesCut++;
    this.#segmenter.begin(frame, leavesPartial);
    // If a byte is to be wrong, then one of the first.
    for (let corruptAt = frame.corruptAt; this.#segmenter.next(segment); corruptAt = NOT_CORRUPT) {
      this.counters.segmentsCut++;
      segment.invertsVerdict = frame.invertsVerdict;
      segment.corruptAt = corruptAt;
      this.#give(segment);
    }
  }

  #give(frame: Frame): void {
    if (frame.corruptAt !== NOT_CORRUPT) {
      const { pool } = this.#switch;
      const held = pool.hold(frame);
      held.corrupt();
      this.#give(held);
      pool.giveBack(held);
      return;
    }
    const { counters } = this;
    for (const observer of this.#observers) observer.observe(frame, false);
    const isTagged = frame.vlanTag !== NO_VLAN_TAG && !this.#end.offloads.vlanTag;
    if (isTagged) insertVlanTag(frame);
    const lengthBytes = frame.lengthBytes;
    if (this.#end.deliver(frame)) {
      counters.framesDelivered++;
      counters.bytesDelivered += lengthBytes;
    } else counters.droppedByEnd++;
    // The next receiver may be in another VLAN.
    if (isTagged) stripVlanTag(frame);
    if (this.#hasDelivered) return;
    this.#hasDelivered = true;
    this.#switch.willFlush(this);
  }

  /** Lets happen to a frame what the fault plan says. @param go - where it goes on. */
  #suffer(frame: Frame, fault: FrameFault, go: (frame: Frame) => void): void {
    this.counters.faults++;
    switch (fault.kind) {
      case "dropped-frame":
        return;
      case "duplicate-frame": {
        const { pool } = this.#switch;
        const copy = pool.hold(frame);
        go(frame);
        go(copy);
        pool.giveBack(copy);
        return;
      }
      case "late-frame":
        this.#later(frame, fault.delayMs, go);
        return;
      case "corrupt-frame":
        frame.corruptAt = fault.offset ?? Infinity;
        go(frame);
        frame.corruptAt = NOT_CORRUPT;
        return;
      case "wrong-checksum-flags":
        frame.invertsVerdict = true;
        go(frame);
        frame.invertsVerdict = false;
        return;
      case "link-flap":
        this.#flapLink(fault.downMs);
    }
  }

  #later(frame: Frame, delayMs: number, go: (frame: Frame) => void): void {
    const { pool, timers } = this.#switch;
    const held = pool.hold(frame);
    const timer = timers.after(delayMs, () => {
      this.#late.delete(timer);
      if (this.#isLinkUp) go(held);
      pool.giveBack(held);
      this.#switch.flush();
    });
    this.#late.set(timer, held);
  }

  #flapLink(downMs: number): void {
    if (this.#flap !== undefined) return;
    this.#changeLink(false);
    this.#flap = this.#switch.timers.after(downMs, () => {
      this.#flap = undefined;
      this.#changeLink(true);
    });
  }

  #changeLink(isUp: boolean): void {
    if (isUp === this.#isLinkUp) return;
    this.#isLinkUp = isUp;
    this.#end.linkChanged(isUp);
  }
}

function usualVlan(kind: PortOptions["kind"]): VlanMode {
  return kind === "guest" ? { mode: "access", id: 0 } : { mode: "trunk", nativeId: 0 };
}
