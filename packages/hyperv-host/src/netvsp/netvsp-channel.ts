import {
  GpaRanges,
  GpaRangesResult,
  type Channel,
  type ChannelClosedReason,
  type IncomingRing,
  type Timer,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  NVSP_MESSAGE_BYTES,
  NvspSendRndisPacket,
  NvspSendRndisPacketComplete,
  NvspStatus,
  NvspType,
  RndisType,
  SECTION_INDEX_NONE,
  SEND_SECTION_BYTES,
  type RndisStatus,
} from "@hyperv-is/hv-netvsc/protocol";
import type { FaultAt, FaultContext } from "../faults.js";
import type { HostChannelHandler, ServiceContext } from "../host-service.js";
import type { Frame } from "../switch/frame.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { ControlMessages } from "./control-messages.js";
import { Linger } from "./linger.js";
import { NetvspReplies } from "./netvsp-replies.js";
import type { NetvspSession } from "./netvsp-session.js";
import type { NetworkAdapter } from "./network-adapter.js";
import { NvspRequests } from "./nvsp-requests.js";
import { ReceivePackets } from "./receive-packets.js";
import { RndisTransmitter } from "./rndis-transmitter.js";

/** A guest that does not tell when it made room is looked at again after this long. */
const SPACE_RETRY_MS = 2;

const { sectionIndex: SECTION_INDEX, sectionBytes: SECTION_BYTES } = NvspSendRndisPacket.fields;

/** One channel of a network adapter: takes NVSP messages, answers as OpenVMM's netvsp does, and records what must not be. */
export class NetvspChannel implements HostChannelHandler {
  readonly index: number;
  readonly #adapter: NetworkAdapter;
  readonly #session: NetvspSession;
  readonly #context: ServiceContext;
  readonly #closed: () => void;
  readonly #replies: NetvspReplies;
  readonly #requests: NvspRequests;
  readonly #ranges: GpaRanges;
  /** The ranges of a packet that has a part of its message in the send buffer, too. */
  readonly #external: GpaRanges;
  readonly #transmitter: RndisTransmitter;
  readonly #control: ControlMessages | undefined;
  /** The message that is handled; private to the host. */
  readonly #message = new Uint8Array(NVSP_MESSAGE_BYTES.v61);
  readonly #words = new Int32Array(this.#message.buffer);
  readonly #view = new DataView(this.#message.buffer);
  readonly #fault: FaultContext;
  readonly #late = new Set<Timer>();
  readonly #linger: Linger;
  #receive: ReceivePackets | undefined;
  #channel: Channel | undefined;
  #messageBytes = 0;
  #isPolled = false;
  #spaceTimer: Timer | undefined;

  constructor(
    adapter: NetworkAdapter,
    session: NetvspSession,
    opening: ChannelOpening,
    context: ServiceContext,
    closed: () => void,
  ) {
    const { subChannelIndex, classId, instanceId } = opening;
    this.#adapter = adapter;
    this.#session = session;
    this.#context = context;
    this.#closed = closed;
    this.index = subChannelIndex;
    this.#ranges = new GpaRanges(context.memory);
    this.#external = new GpaRanges(context.memory);
    this.#transmitter = new RndisTransmitter(context.memory, adapter.port, adapter.counters);
    this.#replies = new NetvspReplies(session, context, adapter.counters, { classId, instanceId });
    this.#requests = new NvspRequests(
      session,
      context,
      this.#replies,
      {
        versions: adapter.versions,
        subChannelsMax: adapter.subChannelsMax,
        revoke: (which) => this.#revoke(which),
        stop: (rule, detail) => this.#stop(rule, detail),
      },
      subChannelIndex === 0,
    );
    if (subChannelIndex === 0)
      this.#control = new ControlMessages(session, adapter.oidSource(session), () =>
        adapter.guestBegan(),
      );
    this.#fault = { classId, instanceId };
    this.#linger = new Linger(context.timers, () => context.schedule());
  }

  opened(channel: Channel): void {
    this.#channel = channel;
    this.#replies.opened(channel);
    this.#adapter.channelOpened();
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    this.#isPolled = true;
    switch (incoming.type) {
      case PacketType.completion:
        this.#completed(incoming);
        break;
      case PacketType.inBand:
      case PacketType.gpaDirect:
        this.#request(incoming);
        break;
      default:
        this.#stop("netvsp-packet-type", `a packet of type ${incoming.type}`);
    }
    if (this.#replies.isFull) channel.pause();
  }

  batchEnd(channel: Channel): void {
    // What the guest gets back when it is told that its packets are done is used until then.
    this.#adapter.flushSwitch();
    this.#drain(channel);
    this.#isPolled = false;
    if (this.#linger.lookEnded()) channel.linger();
  }

  spaceArrived(channel: Channel): void {
    this.#drain(channel);
  }

  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.#adapter.flushSwitch();
    this.#spaceTimer?.cancel();
    this.#linger.end();
    for (const timer of this.#late) timer.cancel();
    this.#late.clear();
    this.#replies.clear();
    this.#control?.clear();
    this.#receive?.clear();
    // A guest may read on in a ring that is taken away from it, and the slots that packets in it name are for all
    // channels: they are free when it has let go of the channel.
    if (reason !== "rescinded") this.guestReleased();
    this.#closed();
  }

  guestReleased(): void {
    this.#session.slots.takeBack(this.index);
  }

  release(done: () => void): void {
    done();
  }

  gpadlTeardown(gpadlId: number, done: () => void): void {
    const { receiveBuffer, sendBuffer } = this.#session;
    const isReceive = receiveBuffer?.gpadlId === gpadlId;
    if (isReceive || sendBuffer?.gpadlId === gpadlId) {
      this.#violation("netvsp-gpadl-in-use", "a buffer is taken back that was not revoked");
      this.#revoke(isReceive ? "receive" : "send");
    }
    done();
  }

  /** Puts a frame into the next packet of this channel. @returns False if it is lost. */
  deliver(frame: Frame): boolean {
    const channel = this.#channel;
    const { counters } = this.#adapter;
    // Completions go first: the guest waits for them.
    if (channel === undefined || channel.isClosed() || this.#replies.waiting > 0) {
      counters.receiveRingFull++;
      return false;
    }
    this.#receive ??= new ReceivePackets(channel, this.#session, counters, this.index);
    return this.#receive.add(channel, frame, this.#receiveFault());
  }

  /** Publishes what was delivered. */
  flush(): void {
    const channel = this.#channel;
    if (channel === undefined || this.#receive?.flush(channel) !== true) return;
    // A channel that is polled publishes at the end of that.
    if (!this.#isPolled) channel.flush();
  }

  /** Forgets frames that are in slots but in no packet. */
  dropReceived(): void {
    this.#receive?.clear();
  }

  /** Has the guest told something. */
  indicate(status: RndisStatus, information?: Uint8Array<ArrayBuffer>): void {
    this.#control?.indicate(status, information);
    this.#context.schedule();
  }

  /** Tells the guest which channels to send on: as many as there are. */
  sendTable(channels: number): void {
    this.#replies.sendTable(channels);
    this.#context.schedule();
  }

  /** A completion of the guest: slots come back. */
  #completed(incoming: IncomingRing): void {
    const { idLow, idHigh, headerBytes, payloadBytes } = incoming;
    const isRead = payloadBytes >= NvspSendRndisPacketComplete.SIZE;
    const type = isRead ? incoming.u32(headerBytes) >>> 0 : -1;
    if (type !== NvspType.sendRndisPacketComplete) {
      this.#stop("netvsp-completion-type", `a completion with a message of type ${type}`);
      return;
    }
    const { offset } = NvspSendRndisPacketComplete.fields.status;
    if (incoming.u32(headerBytes + offset) !== NvspStatus.success)
      this.#adapter.counters.receiveFailed++;
    if (idHigh === 0 && this.#session.slots.giveBack(idLow, this.index)) return;
    // After a revocation there is nothing to give back.
    if (this.#session.receiveBuffer === undefined) return;
    this.#stop("netvsp-completion-unknown", `a completion of packet ${idLow >>> 0}`);
  }

  #request(incoming: IncomingRing): void {
    const bytes = incoming.payloadBytes;
    if (bytes < 4) {
      this.#stop("netvsp-message-short", `${bytes} bytes of a message`);
      return;
    }
    this.#messageBytes = Math.min(bytes, NVSP_MESSAGE_BYTES.v61);
    incoming.readWords(incoming.headerBytes, this.#words, 0, this.#messageBytes >>> 2);
    const type = this.#view.getUint32(0, true);
    const isReady = this.#session.negotiation.name === "ready";
    if (type === NvspType.sendRndisPacket && isReady) {
      this.#sendRndisPacket(incoming);
      return;
    }
    const message = this.#message.subarray(0, this.#messageBytes);
    if (this.#requests.handle(incoming, type, message)) this.#sendRndisPacket(incoming);
  }

  /** An RNDIS message of the guest, or several frames. */
  #sendRndisPacket(incoming: IncomingRing): void {
    if (this.#messageBytes < NvspSendRndisPacket.SIZE) {
      this.#stop("netvsp-message-short", `${this.#messageBytes} bytes of SEND_RNDIS_PACKET`);
      return;
    }
    if (!this.#requests.isAnswered(incoming)) return;
    this.#adapter.counters.transmitPackets++;
    this.#linger.taken();
    const ranges = this.#loadMessage(incoming);
    if (ranges === GpaRangesResult.Corrupt) return;
    const isSent = ranges === GpaRangesResult.Ok && this.#carryOut();
    if (!isSent) this.#adapter.counters.transmitErrors++;
    this.#replies.completeSend(incoming, isSent ? NvspStatus.success : NvspStatus.failure);
  }

  /** Finds the memory of the message: bytes of a section come before those that the packet names. */
  #loadMessage(incoming: IncomingRing): GpaRangesResult {
    const index = this.#view.getUint32(SECTION_INDEX.offset, true);
    const isDirect = incoming.type === PacketType.gpaDirect;
    const ranges = this.#ranges;
    let outcome: GpaRangesResult = GpaRangesResult.Ok;
    if (isDirect) {
      outcome = (index === SECTION_INDEX_NONE ? ranges : this.#external).load(incoming);
      if (outcome === GpaRangesResult.Corrupt) {
        this.#stop("netvsp-ranges", "ranges that contradict themselves");
        return outcome;
      }
    } else ranges.clear();
    if (index !== SECTION_INDEX_NONE && !this.#loadSection(index, isDirect))
      return GpaRangesResult.Corrupt;
    if (outcome === GpaRangesResult.OutsideMemory)
      this.#violation("netvsp-range-outside-memory", "a page number that is not guest memory");
    return outcome;
  }

  /** The part of a message in the send buffer, and behind it what was loaded. */
  #loadSection(index: number, isDirect: boolean): boolean {
    const lengthBytes = this.#view.getUint32(SECTION_BYTES.offset, true);
    const buffer = this.#session.sendBuffer;
    const offset = index * SEND_SECTION_BYTES;
    if (buffer === undefined || offset + lengthBytes > buffer.sizeBytes) {
      this.#stop("netvsp-section", `${lengthBytes} bytes of section ${index}`);
      return false;
    }
    const ranges = this.#ranges;
    const external = this.#external;
    ranges.clear();
    buffer.addRuns(ranges, offset, lengthBytes);
    if (!isDirect) return true;
    for (let run = 0; run < external.runs; run++)
      ranges.add(external.runAddress(run), external.runLength(run));
    return true;
  }

  /** Sends frames, or takes a control message. @returns False if it is malformed. */
  #carryOut(): boolean {
    const transmitter = this.#transmitter;
    const type = transmitter.typeOf(this.#ranges);
    if (type === RndisType.packet) {
      const { rndis } = this.#session;
      if (rndis === "operational" && transmitter.transmit(this.#ranges)) return true;
      if (rndis === "operational") this.#violation("netvsp-rndis-packet", transmitter.problem);
      else this.#violation("netvsp-rndis-state", `a frame while ${rndis}`);
      return false;
    }
    if (type < 0) {
      this.#violation("netvsp-rndis-packet", "no message at all");
      return false;
    }
    if (this.#control === undefined) {
      this.#violation("netvsp-control-channel", `a message of type ${type} on a sub-channel`);
      return false;
    }
    this.#adapter.counters.controlMessages++;
    if (type === RndisType.halt) {
      this.#adapter.guestHalted();
      return true;
    }
    if (this.#control.request(transmitter.copyControl(this.#ranges))) return true;
    this.#violation("netvsp-control-queue", "more control messages than are answered");
    return false;
  }

  /** The guest takes a buffer back: it is not touched any more. */
  #revoke(which: "receive" | "send"): void {
    if (which === "send") {
      this.#session.sendBuffer = undefined;
      return;
    }
    this.#adapter.dropReceived();
    this.#session.receiveBuffer = undefined;
  }

  /** Sends what waits, asks for room if some is left, and publishes. */
  #drain(channel: Channel): void {
    if (channel.isClosed()) return;
    if (this.#replies.drain(channel)) {
      const control = this.#control;
      if (control?.hasWork() === true) this.#drainControl(channel, control);
      if (!this.#replies.isFull) channel.resume();
    } else if (!channel.isClosed()) this.#wait(channel, this.#replies.neededBytes);
    channel.flush();
  }

  #drainControl(channel: Channel, control: ControlMessages): void {
    if (this.#session.receiveBuffer === undefined) return;
    const fault = control.drain(channel, (answer) => this.#answerControl(control, answer));
    if (fault !== undefined) this.#stop(fault.rule, fault.detail);
    // A slot comes back with a packet of the guest; room may come without one.
    else if (control.hasWork() && !channel.isClosed()) this.#wait(channel, control.neededBytes);
  }

  /** Sends the answer to a control message as the fault plan lets it. */
  #answerControl(control: ControlMessages, answer: Uint8Array): void {
    const fault = this.#controlFault();
    if (fault?.kind === "lost-completion") return;
    if (fault?.kind === "late-completion") {
      const timer = this.#context.timers.after(fault.delayMs, () => {
        this.#late.delete(timer);
        control.send(answer);
        this.#context.schedule();
      });
      this.#late.add(timer);
      return;
    }
    control.send(answer);
    if (fault?.kind === "duplicate-completion") control.send(answer);
  }

  #wait(channel: Channel, neededBytes: number): void {
    if (channel.waitForSpace(neededBytes)) {
      // Else it is a slot that is missing: a completion of the guest brings it.
      if (this.#replies.waiting > 0) this.#context.schedule();
      return;
    }
    this.#spaceTimer ??= this.#context.timers.after(SPACE_RETRY_MS, () => {
      this.#spaceTimer = undefined;
      this.#context.schedule();
    });
  }

  #controlFault(): FaultAt<"device.complete"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("device.complete")) return undefined;
    this.#fault.operation = "control";
    const fault = faults.at("device.complete", this.#fault);
    if (fault !== undefined) this.#adapter.counters.faults++;
    return fault;
  }

  #receiveFault(): FaultAt<"network.receive"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("network.receive")) return undefined;
    this.#fault.operation = "receive";
    const fault = faults.at("network.receive", this.#fault);
    if (fault !== undefined) this.#adapter.counters.faults++;
    return fault;
  }

  #violation(rule: string, detail: string): void {
    this.#context.violation(rule, detail);
  }

  /** The guest broke the protocol in a way that has no answer: the channel is closed for good. */
  #stop(rule: string, detail: string): void {
    this.#channel?.fail(`ERR_${rule.toUpperCase().replaceAll("-", "_")}`, detail);
  }
}
