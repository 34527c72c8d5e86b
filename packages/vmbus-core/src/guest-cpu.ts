import { Channel, type ChannelClosedReason, type ChannelHandler } from "./channel.js";
import type { ChannelDescription } from "./channel-description.js";
import { ChannelDispatcher } from "./channel-dispatcher.js";
import type { Timers } from "./clock.js";
import type { QueueContext } from "./driver.js";
import { VmbusError } from "./errors.js";
import { EventFlags } from "./event-flags.js";
import type { GuestMemory } from "./guest-memory.js";
import { HostBell } from "./host-bell.js";
import type { HypervisorPort } from "./hypervisor-port.js";
import {
  messageSlotControl,
  type MessageSlotControl,
  type MessageSlotFactory,
} from "./message-slot.js";
import type { PageAllocator } from "./page-allocator.js";
import {
  CpuidLeaf,
  EventFlagsPage,
  HypercallCode,
  type HypercallStatus,
  HypervisorAdvice,
  HypervisorFeature,
  INTERRUPT_PAGE_FLAG,
  InterruptPage,
  MESSAGE_PENDING,
  MSR_ENABLE,
  MSR_PAGE_MASK,
  MessageSlot,
  Msr,
  PAGE_SIZE,
  PostMessageInput,
  Sint,
  SynicMessageType,
  VMBUS_SINT,
} from "./protocol/index.js";
import { IncomingRing } from "./ring/incoming-ring.js";
import { OutgoingRing } from "./ring/outgoing-ring.js";
import { RingArea } from "./ring/ring-area.js";
import { ringControl, type RingControlFactory } from "./ring/ring-control.js";

/** Vector of SINT 2 unless told: the one that Linux reserves for the hypervisor's call-back. */
const DEFAULT_VECTOR = 0xf3;

/** Messages taken in one go, so that a host that refills the slot for ever cannot hold the CPU. */
const MESSAGE_BUDGET = 64;

/** Makes the accesses to a bitmap of signals; the simulation replaces it. */
export type EventFlagsFactory = (
  memory: GuestMemory,
  address: number,
  lengthBytes: number,
) => EventFlags;

/** What a CPU works on; the factories make the accesses to words that the host shares. */
export interface GuestCpuOptions {
  readonly memory: GuestMemory;
  /** The CPU's own arena. */
  readonly allocator: PageAllocator;
  /** This virtual processor's instructions. */
  readonly hypervisor: HypervisorPort;
  readonly timers: Timers;
  /** Interrupt vector of SINT 2. */
  readonly vector?: number;
  readonly makeRingControl?: RingControlFactory;
  readonly makeEventFlags?: EventFlagsFactory;
  readonly makeMessageSlot?: MessageSlotFactory;
}

/** Running totals of one CPU. */
export interface GuestCpuCounters {
  interrupts: number;
  /** Messages taken out of the slot. */
  messages: number;
  /** Times the host was told that the slot is free. */
  endsOfMessage: number;
  /** Messages of another kind than channel messages, impossible sizes, or without anybody to get them. */
  messagesDropped: number;
}

/**
 * One virtual processor's share of the bus: its SynIC, its message slot, the channels bound to it.
 *
 * Everything here runs on that processor. `interrupt` is the handler of SINT 2, short and without driver
 * code; `run` does the channels' work and is called until it says that nothing is left.
 */
export class GuestCpu implements QueueContext {
  readonly memory: GuestMemory;
  readonly allocator: PageAllocator;
  readonly timers: Timers;
  /** The hypervisor's number of this processor, which is not the system's. */
  readonly vpIndex: number;
  readonly counters: GuestCpuCounters = {
    interrupts: 0,
    messages: 0,
    endsOfMessage: 0,
    messagesDropped: 0,
  };

  readonly #hypervisor: HypervisorPort;
  readonly #vector: number;
  readonly #makeRingControl: RingControlFactory;
  readonly #makeEventFlags: EventFlagsFactory;
  readonly #dispatcher = new ChannelDispatcher();
  readonly #bound = new Map<number, { readonly channel: Channel; readonly bell: HostBell }>();
  /** GPAs of the message page, the event-flags page and the input page of hypercalls. */
  readonly #messagePage: number;
  readonly #flagsPage: number;
  readonly #inputPage: number;
  readonly #slot: MessageSlotControl;
  readonly #flags: EventFlags;
  /** Host-to-guest half of the interrupt page, while the protocol is one below 2.4. */
  #receiveHalf: EventFlags | undefined;
  #messageHandler: ((message: Uint8Array) => void) | undefined;
  #signalOptimization = true;
  #reading = false;
  #messagesLeft = false;

  /** Throws `ERR_NO_SYNIC` if the hypervisor has no synthetic interrupt controller, `ERR_NO_MEMORY` if the arena is used up. */
  constructor(options: GuestCpuOptions) {
    this.memory = options.memory;
    this.allocator = options.allocator;
    this.timers = options.timers;
    this.#hypervisor = options.hypervisor;
    this.#vector = options.vector ?? DEFAULT_VECTOR;
    this.#makeRingControl = options.makeRingControl ?? ringControl;
    this.#makeEventFlags =
      options.makeEventFlags ?? ((...where): EventFlags => EventFlags.at(...where));
    const needed =
      HypervisorFeature.synic | HypervisorFeature.hypercall | HypervisorFeature.vpIndex;
    if ((this.#hypervisor.cpuid(CpuidLeaf.features).eax & needed) !== needed)
      throw new VmbusError("ERR_NO_SYNIC", "the hypervisor offers no SynIC: not Hyper-V's VMBus");
    this.vpIndex = Number(this.#hypervisor.readMsr(Msr.vpIndex));
    const pages = this.allocator.allocate(3);
    if (pages === undefined)
      throw new VmbusError("ERR_NO_MEMORY", "no pages for messages, event flags and hypercalls");
    this.#messagePage = pages;
    this.#flagsPage = pages + PAGE_SIZE;
    this.#inputPage = pages + 2 * PAGE_SIZE;
    this.#slot = (options.makeMessageSlot ?? messageSlotControl)(
      this.memory,
      this.#messagePage + VMBUS_SINT * MessageSlot.SIZE,
    );
    this.#flags = this.#makeEventFlags(
      this.memory,
      this.#flagsPage + VMBUS_SINT * EventFlagsPage.areaBytes,
      EventFlagsPage.areaBytes,
    );
  }

  /** Switches the SynIC on. The order is FreeBSD's and Linux's: pages, source, then the whole. */
  start(): void {
    this.#namePage(Msr.simp, this.#messagePage);
    this.#namePage(Msr.siefp, this.#flagsPage);
    const advice = this.#hypervisor.cpuid(CpuidLeaf.recommendations).eax;
    const source = Msr.sint0 + VMBUS_SINT;
    const kept =
      this.#hypervisor.readMsr(source) &
      ~(Sint.vectorMask | Sint.masked | Sint.autoEoi | Sint.polling);
    const autoEoi = (advice & HypervisorAdvice.noAutoEoi) === 0 ? Sint.autoEoi : 0n;
    this.#hypervisor.writeMsr(source, kept | autoEoi | BigInt(this.#vector));
    this.#setBits(Msr.scontrol, MSR_ENABLE, MSR_ENABLE);
  }

  /**
   * Switches the SynIC off and gives its pages back; the object is of no use afterwards. All channels
   * must be unbound.
   */
  stop(): void {
    if (this.#bound.size > 0) throw new Error("channels are still bound to this CPU");
    this.#setBits(Msr.scontrol, MSR_ENABLE, 0n);
    this.#setBits(Msr.sint0 + VMBUS_SINT, Sint.masked, Sint.masked);
    this.#setBits(Msr.simp, MSR_ENABLE | MSR_PAGE_MASK, 0n);
    this.#setBits(Msr.siefp, MSR_ENABLE | MSR_PAGE_MASK, 0n);
    this.allocator.free(this.#messagePage);
  }

  /** Who gets the channel messages that arrive on this CPU: the bus, on the boot processor. */
  setMessageHandler(handler: ((message: Uint8Array) => void) | undefined): void {
    this.#messageHandler = handler;
  }

  /**
   * Chooses how the host announces events: undefined for one flag per channel (2.4 and later), else the
   * GPA of the interrupt page that flag 0 stands for.
   */
  useInterruptPage(address: number | undefined): void {
    this.#receiveHalf =
      address === undefined
        ? undefined
        : this.#makeEventFlags(
            this.memory,
            address + InterruptPage.receive,
            InterruptPage.scannedFlags / 8,
          );
  }

  /** The interrupt of SINT 2: events first, then messages. */
  interrupt(): void {
    this.counters.interrupts++;
    if (this.#receiveHalf === undefined) this.#dispatcher.interrupt(this.#flags);
    else if (this.#flags.clear(INTERRUPT_PAGE_FLAG)) this.#dispatcher.interrupt(this.#receiveHalf);
    this.#readMessages();
  }

  /** Polls the channels that have work; true if some is left and this should be called again. */
  run(): boolean {
    if (this.#messagesLeft) this.#readMessages();
    return this.#dispatcher.run() || this.#messagesLeft;
  }

  /** `Channel.signalOptimization` of all channels of this CPU, those to come included. */
  get signalOptimization(): boolean {
    return this.#signalOptimization;
  }

  set signalOptimization(wanted: boolean) {
    this.#signalOptimization = wanted;
    for (const { channel } of this.#bound.values()) channel.signalOptimization = wanted;
  }

  /** The channel that is bound to a relid on this CPU. */
  channel(relid: number): Channel | undefined {
    return this.#bound.get(relid)?.channel;
  }

  bindChannel(description: ChannelDescription, handler: ChannelHandler): Channel {
    const { relid, ringAddress, outgoingPages, incomingPages } = description;
    if (description.targetVp !== this.vpIndex)
      throw new Error(`channel ${relid} is for VP ${description.targetVp}, not ${this.vpIndex}`);
    const incomingAddress = ringAddress + outgoingPages * PAGE_SIZE;
    const bell = new HostBell(this.memory, this.#hypervisor, description);
    const channel = new Channel(
      new IncomingRing(
        RingArea.at(this.memory, incomingAddress, incomingPages),
        this.#makeRingControl,
      ),
      new OutgoingRing(RingArea.at(this.memory, ringAddress, outgoingPages), this.#makeRingControl),
      bell,
      handler,
    );
    channel.signalOptimization = this.#signalOptimization;
    this.#dispatcher.bind(relid, channel);
    this.#bound.set(relid, { channel, bell });
    return channel;
  }

  /** After a rescind, completions that already lie in the ring still reach the handler before it hears of the end. */
  unbindChannel(description: ChannelDescription, reason: ChannelClosedReason = "closed"): void {
    const bound = this.#bound.get(description.relid);
    if (bound === undefined) return;
    const { channel, bell } = bound;
    this.#bound.delete(description.relid);
    this.#dispatcher.unbind(description.relid);
    if (reason === "rescinded") {
      bell.silence();
      // No packet is smaller than 16 bytes: one poll takes all that the ring can hold.
      channel.poll(channel.incoming.sizeBytes >>> 4);
    }
    channel.close(reason);
  }

  /** One attempt to post a channel message; the status is one of `HypercallStatus`. */
  postMessage(connectionId: number, message: Uint8Array): HypercallStatus {
    const input = PostMessageInput.emit({
      connectionId,
      messageType: SynicMessageType.channel,
      payloadSize: message.byteLength,
      payload: message,
    });
    this.memory.bytes.set(input, this.#inputPage);
    return this.#hypervisor.hypercall(HypercallCode.postMessage, this.#inputPage, 0);
  }

  #readMessages(): void {
    // Handling a message can bring the next interrupt before it returns; that one is taken care of here.
    if (this.#reading) return;
    this.#reading = true;
    let left = MESSAGE_BUDGET;
    try {
      while (left > 0 && this.#readMessage()) left--;
    } finally {
      this.#reading = false;
    }
    this.#messagesLeft = left === 0;
  }

  /** Takes one message; false if the slot is empty. The order of the accesses is the protocol's. */
  #readMessage(): boolean {
    const type = this.#slot.loadType();
    if (type === SynicMessageType.none) return false;
    const copy = MessageSlot.parse(this.#slot.copyOut());
    // Whoever else took the message, a crash dumper say, handles it and tells the host.
    if (!this.#slot.clear(type) || copy === undefined) return true;
    // Only now: a host that found the slot full after an earlier look at the flag would wait for ever.
    if ((this.#slot.loadFlags() & MESSAGE_PENDING) !== 0) {
      this.counters.endsOfMessage++;
      this.#hypervisor.writeMsr(Msr.eom, 0n);
    }
    this.counters.messages++;
    const { payload, payloadSize } = copy;
    if (
      type !== SynicMessageType.channel ||
      payloadSize > payload.byteLength ||
      this.#messageHandler === undefined
    )
      this.counters.messagesDropped++;
    else this.#messageHandler(payload.subarray(0, payloadSize));
    return true;
  }

  #namePage(msr: number, address: number): void {
    this.#setBits(msr, MSR_ENABLE | MSR_PAGE_MASK, BigInt(address) | MSR_ENABLE);
  }

  /** Changes the bits of `mask`; the others are reserved and keep what they have. */
  #setBits(msr: number, mask: bigint, value: bigint): void {
    this.#hypervisor.writeMsr(msr, (this.#hypervisor.readMsr(msr) & ~mask) | value);
  }
}
