import { GpaRangesResult, type Channel, type Timer } from "@hyperv-is/vmbus-core";
import { Packet, PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  CDB_BYTES,
  DataDirection,
  NtStatus,
  SENSE_AREA_BYTES,
  SrbPacket,
  SubChannelsPacket,
  UNSOLICITED_TRANSACTION_ID,
  VersionPacket,
  VSTOR_PACKET_BYTES,
  VSTOR_PACKET_BYTES_LEGACY,
  VstorOperation,
  VstorPacket,
  emitChannelProperties,
  ntStatusOfSrb,
  PropertiesFlag,
} from "@hyperv-is/hv-storvsc/protocol";
import type { FaultAt, FaultContext } from "../faults.js";
import type { HostChannelHandler, ServiceContext } from "../host-service.js";
import { PacketQueue } from "../packet-queue.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { stepInitialization, type InitializationInput } from "./initialization.js";
import type { StorvspController, StorvspState } from "./storvsp-controller.js";
import { RequestBatch } from "./request-batch.js";
import { StorvspRequest } from "./storvsp-request.js";

/** Packets of a channel that are taken before the first of them is answered; then the ring is left alone. */
const REQUESTS_MAX = 256;

/** Most requests that are taken, carried out and answered together. */
const BATCH_REQUESTS = 12;

/** A guest that does not tell when it made room (FreeBSD's drivers) is looked at again after this long. */
const SPACE_RETRY_MS = 2;

/**
 * One channel of a storage controller: takes vstor packets, answers each as OpenVMM's storvsp does, and
 * records what a guest must not send. A completion is as long as its request, and comes when the disk has done
 * it: at once, or later and in any order.
 */
export class StorvspChannel implements HostChannelHandler {
  readonly #controller: StorvspController;
  readonly #context: ServiceContext;
  readonly #closed: () => void;
  readonly #isPrimary: boolean;
  readonly #queue = new PacketQueue(REQUESTS_MAX, VSTOR_PACKET_BYTES);
  /** The packet that is being handled, and then its answer; private to the host. */
  readonly #packet = new Uint8Array(VSTOR_PACKET_BYTES);
  readonly #words = new Int32Array(this.#packet.buffer);
  readonly #view = new DataView(this.#packet.buffer);
  readonly #fault: FaultContext;
  readonly #late = new Set<Timer>();
  /** Requests that are at rest. */
  readonly #idle: StorvspRequest[] = [];
  /** Requests that were taken and not begun, and how many that may become. */
  readonly #batch = new RequestBatch(
    (request) => this.#execute(request),
    () => this.#controller.luns.carryOut(),
    (request) => this.#complete(request),
  );
  #batchMost = 1;
  /** Requests that are not answered, and those of them that a disk is working on. */
  #inFlight = 0;
  #executing = 0;
  readonly #released: (() => void)[] = [];
  #channel: Channel | undefined;
  #packetBytes = 0;
  /** Answers since the last publication. */
  #unpublished = 0;
  /** The channel will be polled, and so drained and published, without anybody asking for it. */
  #isPolled = false;
  #spaceTimer: Timer | undefined;

  constructor(
    controller: StorvspController,
    opening: ChannelOpening,
    context: ServiceContext,
    closed: () => void,
  ) {
    this.#controller = controller;
    this.#context = context;
    this.#closed = closed;
    this.#isPrimary = opening.subChannelIndex === 0;
    this.#fault = { classId: opening.classId, instanceId: opening.instanceId };
  }

  opened(channel: Channel): void {
    this.#channel = channel;
    // A sub-channel may carry requests before the controller is ready: they wait in the ring.
    if (!this.#isPrimary && this.#controller.initialization.name !== "ready") channel.pause();
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    const bytes = incoming.payloadBytes;
    if (incoming.type !== PacketType.inBand && incoming.type !== PacketType.gpaDirect) {
      this.#stop(channel, "storvsp-packet-type", `a packet of type ${incoming.type}`);
      return;
    }
    if (!incoming.completionRequested) {
      this.#stop(channel, "storvsp-no-completion-requested", "a packet that wants no completion");
      return;
    }
    if (bytes < VstorPacket.HEADER_SIZE) {
      this.#stop(channel, "storvsp-packet-short", `${bytes} bytes, a header has 12`);
      return;
    }
    this.#packetBytes = bytes < VSTOR_PACKET_BYTES ? bytes : VSTOR_PACKET_BYTES;
    const words = this.#packetBytes >>> 2;
    // What an earlier, longer packet left must not be taken for a part of this one.
    if (words < this.#words.length) this.#words.fill(0, words);
    incoming.readWords(incoming.headerBytes, this.#words, 0, words);
    this.#isPolled = true;
    const operation = this.#view.getUint32(VstorPacket.operation, true);
    if (operation === VstorOperation.executeSrb) this.#executeSrb(channel);
    else {
      this.#carryOutBatch(channel);
      this.#control(channel, operation);
    }
    if (this.#isFull()) channel.pause();
  }

  batchEnd(channel: Channel): void {
    if (this.#isPrimary && this.#controller.takeBusChange()) this.#sendBusChange(channel);
    this.#carryOutBatch(channel);
    this.#drain(channel);
    this.#isPolled = false;
  }

  spaceArrived(channel: Channel): void {
    this.#drain(channel);
  }

  closed(): void {
    this.#spaceTimer?.cancel();
    for (const timer of this.#late) timer.cancel();
    this.#late.clear();
    this.#queue.clear();
    this.#closed();
  }

  release(done: () => void): void {
    // The disks move data of what they have begun, whatever the channel does.
    if (this.#executing === 0) done();
    else this.#released.push(done);
  }

  save(): { readonly data: StorvspState | undefined } | undefined {
    if (this.#queue.waiting > 0 || this.#inFlight > 0 || this.#unpublished > 0) return undefined;
    return { data: this.#isPrimary ? this.#controller.save() : undefined };
  }

  restore(data: unknown): void {
    if (this.#isPrimary) this.#controller.restore(data as StorvspState);
  }

  /** The primary channel has ended the initialization. */
  controllerReady(): void {
    if (this.#isPrimary) return;
    this.#channel?.resume();
    this.#context.schedule();
  }

  /** The LUNs have changed; the primary channel tells the guest when it is polled. */
  busChanged(): void {
    if (this.#isPrimary) this.#context.schedule();
  }

  /** Sends what waits, asks for room if some is left, and publishes. */
  #drain(channel: Channel): void {
    if (!this.#queue.drain(channel) && !channel.isClosed()) {
      if (channel.waitForSpace(this.#queue.neededBytes)) this.#context.schedule();
      else this.#lookAgainLater();
    } else if (!this.#isFull() && this.#controller.initialization.name === "ready") {
      channel.resume();
    }
    this.#publish(channel);
  }

  #publish(channel: Channel): void {
    this.#unpublished = 0;
    channel.flush();
  }

  /** True if no more packets may be taken. */
  #isFull(): boolean {
    return this.#inFlight + this.#queue.waiting >= REQUESTS_MAX;
  }

  #lookAgainLater(): void {
    this.#spaceTimer ??= this.#context.timers.after(SPACE_RETRY_MS, () => {
      this.#spaceTimer = undefined;
      this.#context.schedule();
    });
  }

  /** Every operation but requests: answered with a status, or the end of the channel. */
  #control(channel: Channel, operation: number): void {
    switch (operation) {
      case VstorOperation.beginInitialization:
      case VstorOperation.endInitialization:
      case VstorOperation.queryProperties:
        this.#initialize(channel, { operation });
        return;
      case VstorOperation.queryProtocolVersion: {
        const version = this.#view.getUint16(VersionPacket.majorMinor, true);
        this.#initialize(channel, { operation, version });
        return;
      }
      case VstorOperation.createSubChannels: {
        const count = this.#view.getUint16(SubChannelsPacket.count, true);
        this.#initialize(channel, { operation, count });
        return;
      }
      case VstorOperation.resetLun:
      case VstorOperation.resetAdapter:
      case VstorOperation.resetBus: {
        const ready = this.#controller.initialization.name === "ready";
        if (!ready)
          this.#violation("storvsp-operation-state", `operation ${operation} before ready`);
        this.#answer(channel, ready ? NtStatus.success : NtStatus.invalidDeviceState);
        return;
      }
      default:
        this.#stop(channel, "storvsp-operation-unknown", `operation ${operation}`);
    }
  }

  #initialize(channel: Channel, input: InitializationInput): void {
    const controller = this.#controller;
    const { operation } = input;
    const before = controller.initialization;
    if (!this.#isPrimary) {
      this.#violation("storvsp-operation-channel", `operation ${operation} on a sub-channel`);
      this.#answer(channel, NtStatus.invalidDeviceState);
      return;
    }
    const { state, status, offerSubChannels } = stepInitialization(
      before,
      input,
      controller.limits,
    );
    if (status === NtStatus.invalidDeviceState)
      this.#violation("storvsp-operation-state", `operation ${operation} in state ${before.name}`);
    if (status === NtStatus.success && operation === VstorOperation.queryProperties)
      this.#putProperties();
    this.#answer(channel, status);
    controller.initialization = state;
    if (offerSubChannels !== undefined && offerSubChannels > 0)
      this.#context.offerSubChannels(offerSubChannels);
  }

  #putProperties(): void {
    const { limits, maxTransferBytes, version } = this.#controller;
    const multiChannel = version?.multiChannel === true && limits.subChannelsMax > 0;
    emitChannelProperties(this.#packet, {
      subChannelCountMax: multiChannel ? limits.subChannelsMax : 0,
      flags: multiChannel ? PropertiesFlag.multiChannel : 0,
      maxTransferBytes,
    });
  }

  /** Answers a control operation with the packet as it is, but for the header. */
  #answer(channel: Channel, status: NtStatus): void {
    this.#putHeader(VstorOperation.completeIo, status);
    const { idLow, idHigh } = channel.incoming;
    this.#put(channel, PacketType.completion, idLow, idHigh, this.#packetBytes);
  }

  /** Sends the packet, or has it wait for room. */
  #put(
    channel: Channel,
    type: PacketType,
    idLow: number,
    idHigh: number,
    lengthBytes: number,
  ): void {
    this.#queue.put(channel, type, idLow, idHigh, this.#words, lengthBytes);
    if (++this.#unpublished >= BATCH_REQUESTS) this.#publish(channel);
  }

  #executeSrb(channel: Channel): void {
    const { incoming } = channel;
    if (this.#controller.initialization.name !== "ready") {
      this.#violation("storvsp-operation-state", "a request before the controller is ready");
      this.#answer(channel, NtStatus.invalidDeviceState);
      return;
    }
    if (this.#packetBytes < VSTOR_PACKET_BYTES_LEGACY) {
      this.#stop(channel, "storvsp-request-short", `${this.#packetBytes} bytes of a request`);
      return;
    }
    this.#controller.counters.requests++;
    const request = this.#idle.pop() ?? this.#newRequest();
    request.load(incoming, this.#packet, this.#words, this.#packetBytes);
    const length = this.#view.getUint32(SrbPacket.dataTransferLength, true);
    const ranges = request.loadRanges(incoming, length);
    if (ranges === GpaRangesResult.Corrupt) {
      if (channel.isClosed()) return;
      this.#stop(channel, "storvsp-ranges", `ranges that do not hold ${length} bytes`);
      return;
    }
    this.#inFlight++;
    const fault = this.#requestFault(request);
    if (ranges === GpaRangesResult.OutsideMemory) {
      this.#violation("storvsp-range-outside-memory", "a page number that is not guest memory");
      request.result.invalidRequest();
      this.#complete(request);
    } else if (fault?.kind === "check-condition") {
      const additional = (fault.additionalCode << 8) | fault.additionalQualifier;
      request.result.error(fault.senseKey, additional);
      this.#complete(request);
    } else {
      if (fault?.kind === "short-transfer") request.mostBytes = fault.bytes;
      this.#addToBatch(channel, request);
    }
  }

  /** The other half of what waits is for the next batch: the guest has answers to work on while that is carried out. */
  #addToBatch(channel: Channel, request: StorvspRequest): void {
    const { incoming } = channel;
    if (this.#batch.count === 0) {
      const waiting = incoming.look() / (incoming.packetBytes + Packet.trailerBytes);
      this.#batchMost = Math.max(1, Math.min(BATCH_REQUESTS, waiting >>> 1));
    }
    this.#batch.add(request);
    if (this.#batch.count >= this.#batchMost) this.#carryOutBatch(channel);
  }

  #carryOutBatch(channel: Channel): void {
    if (this.#batch.count === 0) return;
    this.#batch.carryOut();
    this.#publish(channel);
  }

  /** Lets the disk at the address work. */
  #execute(request: StorvspRequest): void {
    const { luns } = this.#controller;
    const { pathId, targetId, lun, ranges, mostBytes } = request;
    // Without data there is no direction.
    if (ranges.lengthBytes === 0) request.direction = DataDirection.fromDevice;
    this.#executing++;
    if (mostBytes < ranges.lengthBytes && request.isTransfer) {
      const sector = luns.find(pathId, targetId, lun)?.logicalSectorBytes ?? mostBytes + 1;
      const blocks = Math.floor(mostBytes / sector);
      if (blocks === 0) {
        request.result.good(0);
        request.ended();
        return;
      }
      request.shorten(blocks, sector);
    }
    luns.execute(pathId, targetId, lun, request);
  }

  #newRequest(): StorvspRequest {
    return new StorvspRequest(this.#context.memory, (request) => {
      this.#executing--;
      if (request.direction === DataDirection.fromDevice) this.#tellOfData(request);
      if (request.result.dataTransferLength > request.mostBytes)
        request.result.dataTransferLength = request.mostBytes;
      this.#batch.ended(request);
      if (this.#executing === 0 && this.#released.length > 0)
        for (const done of this.#released.splice(0)) done();
    });
  }

  /** Says where the result of a command was put; after an error perhaps more than that was touched. */
  #tellOfData({ ranges }: StorvspRequest): void {
    const { dataWritten } = this.#context;
    if (dataWritten === undefined) return;
    for (let run = 0; run < ranges.runs; run++)
      dataWritten(ranges.runAddress(run), ranges.runLength(run));
  }

  /** A request has its result: sends the completion as the fault plan lets it. */
  #complete(request: StorvspRequest): void {
    const fault = this.#completionFault(request);
    if (fault?.kind === "late-completion") {
      const timer = this.#context.timers.after(fault.delayMs, () => {
        this.#late.delete(timer);
        this.#sendCompletions(request, 1);
      });
      this.#late.add(timer);
    } else if (fault?.kind === "lost-completion") this.#sendCompletions(request, 0);
    else this.#sendCompletions(request, fault?.kind === "duplicate-completion" ? 2 : 1);
  }

  /** Ends a request. @param count - of its completions, as far as there is room for more than one. */
  #sendCompletions(request: StorvspRequest, count: number): void {
    const channel = this.#channel!;
    this.#inFlight--;
    this.#idle.push(request);
    if (channel.isClosed()) return;
    const { idLow, idHigh, packetBytes, result } = request;
    this.#putHeader(VstorOperation.completeIo, ntStatusOfSrb(result.srbStatus));
    const view = this.#view;
    const words = this.#words;
    // By hand: there are few of them, and a call costs more.
    for (let word = VstorPacket.HEADER_SIZE >>> 2; word < words.length; word++) words[word] = 0;
    view.setUint16(SrbPacket.length, packetBytes - VstorPacket.HEADER_SIZE, true);
    view.setUint8(SrbPacket.srbStatus, result.srbStatus);
    view.setUint8(SrbPacket.scsiStatus, result.scsiStatus);
    view.setUint8(SrbPacket.cdbLength, CDB_BYTES);
    view.setUint8(SrbPacket.senseInfoLength, SENSE_AREA_BYTES);
    view.setUint32(SrbPacket.dataTransferLength, result.dataTransferLength, true);
    if (result.senseCode !== 0) this.#packet.set(result.sense, SrbPacket.sense);
    for (let sent = 0; sent < count && (sent === 0 || !this.#isFull()); sent++)
      this.#put(channel, PacketType.completion, idLow, idHigh, packetBytes);
    if (this.#queue.waiting > 0) this.#controller.counters.completionsDelayed++;
    if (this.#isPolled) return;
    this.#isPolled = true;
    this.#context.schedule();
  }

  #sendBusChange(channel: Channel): void {
    const bytes = this.#controller.version?.packetBytes ?? VSTOR_PACKET_BYTES;
    if (this.#isFull()) return;
    this.#words.fill(0);
    this.#putHeader(VstorOperation.enumerateBus, NtStatus.success);
    const id = UNSOLICITED_TRANSACTION_ID;
    this.#put(channel, PacketType.inBand, id, id, bytes);
  }

  #putHeader(operation: VstorOperation, status: NtStatus): void {
    this.#view.setUint32(VstorPacket.operation, operation, true);
    this.#view.setUint32(VstorPacket.flags, 0, true);
    this.#view.setUint32(VstorPacket.status, status, true);
  }

  #requestFault(request: StorvspRequest): FaultAt<"device.request"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("device.request")) return undefined;
    const fault = faults.at("device.request", this.#faultContext(request));
    if (fault === undefined) return undefined;
    this.#controller.counters.faults++;
    if (fault.kind === "rescind") this.#context.rescind(fault.reofferAfterMs);
    return fault;
  }

  #completionFault(request: StorvspRequest): FaultAt<"device.complete"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("device.complete")) return undefined;
    const fault = faults.at("device.complete", this.#faultContext(request));
    if (fault !== undefined) this.#controller.counters.faults++;
    return fault;
  }

  /** A request, as fault plans select it. */
  #faultContext({ lun, operation }: StorvspRequest): FaultContext {
    this.#fault.lun = lun;
    this.#fault.operation = operation;
    return this.#fault;
  }

  #violation(rule: string, detail: string): void {
    this.#context.violation(rule, detail);
  }

  /** The guest broke the protocol in a way that has no answer: what it asked for before is done, and the channel is closed for good. */
  #stop(channel: Channel, rule: string, detail: string): void {
    this.#carryOutBatch(channel);
    channel.fail(`ERR_${rule.toUpperCase().replaceAll("-", "_")}`, detail);
  }
}
