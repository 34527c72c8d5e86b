import {
  GpaRanges,
  GpaRangesResult,
  type Channel,
  type IncomingRing,
  type Timer,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  CDB_BYTES,
  DataDirection,
  NtStatus,
  Opcode,
  SENSE_AREA_BYTES,
  ServiceAction,
  SERVICE_ACTION_MASK,
  SrbPacket,
  SubChannelsPacket,
  UNSOLICITED_TRANSACTION_ID,
  VersionPacket,
  VSTOR_PACKET_BYTES,
  VSTOR_PACKET_BYTES_LEGACY,
  VstorOperation,
  VstorPacket,
  emitChannelProperties,
  emitTransferCdb,
  ntStatusOfSrb,
  transferLba,
  PropertiesFlag,
} from "@hyperv-is/hv-storvsc/protocol";
import type { FaultAt, FaultContext, FaultOperation } from "../faults.js";
import type { HostChannelHandler, ServiceContext } from "../host-service.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { CompletionQueue } from "./completion-queue.js";
import { stepInitialization, type InitializationInput } from "./initialization.js";
import { ScsiResult } from "./scsi-result.js";
import type { StorvspController, StorvspState } from "./storvsp-controller.js";

/** Requests of a channel that are taken before the first of them is answered; then the ring is left alone. */
const REQUESTS_MAX = 256;

/**
 * Answers after which they are published though more requests wait: the guest goes on meanwhile, instead of
 * taking turns with the host.
 */
const ANSWERS_PER_PUBLICATION = 8;

/** A guest that does not tell when it made room (FreeBSD's drivers) is looked at again after this long. */
const SPACE_RETRY_MS = 2;

/**
 * One channel of a storage controller: takes vstor packets, answers each as OpenVMM's storvsp does, and
 * records what a guest must not send. A completion is as long as its request.
 */
export class StorvspChannel implements HostChannelHandler {
  readonly #controller: StorvspController;
  readonly #context: ServiceContext;
  readonly #closed: () => void;
  readonly #isPrimary: boolean;
  readonly #ranges: GpaRanges;
  readonly #result = new ScsiResult();
  readonly #queue = new CompletionQueue(REQUESTS_MAX);
  /** The packet that is being handled, and then its answer; private to the host. */
  readonly #packet = new Uint8Array(VSTOR_PACKET_BYTES);
  readonly #words = new Int32Array(this.#packet.buffer);
  readonly #view = new DataView(this.#packet.buffer);
  readonly #cdb = new Uint8Array(CDB_BYTES);
  readonly #fault: FaultContext;
  readonly #late = new Set<Timer>();
  #channel: Channel | undefined;
  #packetBytes = 0;
  /** Packets that were handled since the last publication. */
  #unpublished = 0;
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
    this.#ranges = new GpaRanges(context.memory);
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
    // What an earlier, longer packet left must not be taken for a part of this one.
    this.#words.fill(0);
    incoming.readWords(incoming.headerBytes, this.#words, 0, this.#packetBytes >>> 2);
    const operation = this.#view.getUint32(VstorPacket.operation, true);
    if (operation === VstorOperation.executeSrb) this.#executeSrb(channel);
    else this.#control(channel, operation);
    if (this.#queue.isFull) channel.pause();
    if (++this.#unpublished >= ANSWERS_PER_PUBLICATION) this.#publish(channel);
  }

  batchEnd(channel: Channel): void {
    if (this.#isPrimary && this.#controller.takeBusChange()) this.#sendBusChange(channel);
    this.#drain(channel);
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
    // Data moves only while a packet is handled, so nothing of the guest's is in use any more.
    done();
  }

  save(): { readonly data: StorvspState | undefined } | undefined {
    const isBusy = this.#queue.waiting > 0 || this.#late.size > 0 || this.#unpublished > 0;
    if (isBusy) return undefined;
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
    } else if (!this.#queue.isFull && this.#controller.initialization.name === "ready") {
      channel.resume();
    }
    this.#publish(channel);
  }

  #publish(channel: Channel): void {
    this.#unpublished = 0;
    channel.flush();
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
    const { idLow, idHigh } = channel.incoming;
    this.#putHeader(VstorOperation.completeIo, status);
    const bytes = this.#packetBytes;
    this.#queue.put(channel, PacketType.completion, idLow, idHigh, this.#words, bytes);
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
    const length = this.#view.getUint32(SrbPacket.dataTransferLength, true);
    const ranges = this.#loadRanges(incoming, length);
    if (ranges === GpaRangesResult.Corrupt) {
      if (channel.isClosed()) return;
      this.#stop(channel, "storvsp-ranges", `ranges that do not hold ${length} bytes`);
      return;
    }
    const fault = this.#requestFault();
    if (ranges === GpaRangesResult.OutsideMemory) {
      this.#violation("storvsp-range-outside-memory", "a page number that is not guest memory");
      this.#result.invalidRequest();
    } else if (fault?.kind === "check-condition") {
      const additional = (fault.additionalCode << 8) | fault.additionalQualifier;
      this.#result.error(fault.senseKey, additional);
    } else this.#execute(fault?.kind === "short-transfer" ? fault.bytes : Infinity);
    this.#complete(channel);
  }

  /** Reads where the data goes; a request has no range or one, and that holds all of it. */
  #loadRanges(incoming: IncomingRing, length: number): GpaRangesResult {
    if (incoming.type === PacketType.inBand) {
      this.#ranges.clear();
      return length === 0 ? GpaRangesResult.Ok : GpaRangesResult.Corrupt;
    }
    const outcome = this.#ranges.load(incoming);
    if (outcome === GpaRangesResult.Corrupt || this.#ranges.count !== 1)
      return GpaRangesResult.Corrupt;
    if (outcome === GpaRangesResult.OutsideMemory) return outcome;
    if (this.#ranges.lengthBytes < length) return GpaRangesResult.Corrupt;
    this.#ranges.truncate(length);
    return GpaRangesResult.Ok;
  }

  /** Lets the disk at the address work. @param mostBytes - a fault's limit. */
  #execute(mostBytes: number): void {
    const packet = this.#packet;
    const cdb = this.#cdb;
    for (let at = 0; at < CDB_BYTES; at++) cdb[at] = packet[SrbPacket.cdb + at]!;
    const path = packet[SrbPacket.pathId]!;
    const target = packet[SrbPacket.targetId]!;
    const lun = packet[SrbPacket.lun]!;
    const { luns } = this.#controller;
    const ranges = this.#ranges;
    // OpenVMM takes every direction but "to the device" for device to memory.
    const direction =
      packet[SrbPacket.dataIn] === DataDirection.toDevice && ranges.lengthBytes > 0
        ? DataDirection.toDevice
        : DataDirection.fromDevice;
    if (mostBytes < ranges.lengthBytes && isTransfer(cdb[0]!)) {
      const sector = luns.find(path, target, lun)?.logicalSectorBytes ?? mostBytes + 1;
      const blocks = Math.floor(mostBytes / sector);
      if (blocks === 0) {
        this.#result.good(0);
        return;
      }
      ranges.truncate(blocks * sector);
      const write = direction === DataDirection.toDevice;
      // A read of 6 bytes that is cut short stays one of 6 bytes.
      emitTransferCdb(cdb, 0, write, transferLba(cdb, 0), blocks, cdb[0]! < 0x20 ? 6 : 10);
    }
    luns.execute(path, target, lun, cdb, direction, ranges, this.#result);
    if (this.#result.dataTransferLength > mostBytes) this.#result.dataTransferLength = mostBytes;
    if (direction === DataDirection.fromDevice) this.#tellOfData();
  }

  /** Says where the result of a command was put; after an error perhaps more than that was touched. */
  #tellOfData(): void {
    const { dataWritten } = this.#context;
    if (dataWritten === undefined) return;
    const ranges = this.#ranges;
    for (let run = 0; run < ranges.runs; run++)
      dataWritten(ranges.runAddress(run), ranges.runLength(run));
  }

  /** Turns the packet into the completion of the request in it, and sends it, as the fault plan lets it. */
  #complete(channel: Channel): void {
    const { idLow, idHigh } = channel.incoming;
    const result = this.#result;
    const fault = this.#completionFault();
    const words = this.#words;
    words.fill(0);
    this.#putHeader(VstorOperation.completeIo, ntStatusOfSrb(result.srbStatus));
    const view = this.#view;
    const bytes = this.#packetBytes;
    view.setUint16(SrbPacket.length, bytes - VstorPacket.HEADER_SIZE, true);
    view.setUint8(SrbPacket.srbStatus, result.srbStatus);
    view.setUint8(SrbPacket.scsiStatus, result.scsiStatus);
    view.setUint8(SrbPacket.cdbLength, CDB_BYTES);
    view.setUint8(SrbPacket.senseInfoLength, SENSE_AREA_BYTES);
    view.setUint32(SrbPacket.dataTransferLength, result.dataTransferLength, true);
    if (result.senseCode !== 0) this.#packet.set(result.sense, SrbPacket.sense);
    if (fault?.kind === "lost-completion") return;
    if (fault?.kind === "late-completion") {
      this.#completeLater(channel, idLow, idHigh, words.slice(), bytes, fault.delayMs);
      return;
    }
    this.#queue.put(channel, PacketType.completion, idLow, idHigh, words, bytes);
    if (fault?.kind === "duplicate-completion" && !this.#queue.isFull)
      this.#queue.put(channel, PacketType.completion, idLow, idHigh, words, bytes);
    if (this.#queue.waiting > 0) this.#controller.counters.completionsDelayed++;
  }

  #completeLater(
    channel: Channel,
    idLow: number,
    idHigh: number,
    words: Int32Array,
    bytes: number,
    delayMs: number,
  ): void {
    const timer = this.#context.timers.after(delayMs, () => {
      this.#late.delete(timer);
      if (this.#queue.isFull) {
        this.#completeLater(channel, idLow, idHigh, words, bytes, SPACE_RETRY_MS);
      } else {
        this.#queue.put(channel, PacketType.completion, idLow, idHigh, words, bytes);
        this.#context.schedule();
      }
    });
    this.#late.add(timer);
  }

  #sendBusChange(channel: Channel): void {
    const bytes = this.#controller.version?.packetBytes ?? VSTOR_PACKET_BYTES;
    if (this.#queue.isFull) return;
    this.#words.fill(0);
    this.#putHeader(VstorOperation.enumerateBus, NtStatus.success);
    const id = UNSOLICITED_TRANSACTION_ID;
    this.#queue.put(channel, PacketType.inBand, id, id, this.#words, bytes);
  }

  #putHeader(operation: VstorOperation, status: NtStatus): void {
    this.#view.setUint32(VstorPacket.operation, operation, true);
    this.#view.setUint32(VstorPacket.flags, 0, true);
    this.#view.setUint32(VstorPacket.status, status, true);
  }

  #requestFault(): FaultAt<"device.request"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("device.request")) return undefined;
    const fault = faults.at("device.request", this.#faultContext());
    if (fault === undefined) return undefined;
    this.#controller.counters.faults++;
    if (fault.kind === "rescind") this.#context.rescind(fault.reofferAfterMs);
    return fault;
  }

  #completionFault(): FaultAt<"device.complete"> | undefined {
    const { faults } = this.#context;
    if (!faults.isArmed("device.complete")) return undefined;
    const fault = faults.at("device.complete", this.#faultContext());
    if (fault !== undefined) this.#controller.counters.faults++;
    return fault;
  }

  /** The request in the packet, as fault plans select it. */
  #faultContext(): FaultContext {
    this.#fault.lun = this.#packet[SrbPacket.lun]!;
    this.#fault.operation = this.#operation();
    return this.#fault;
  }

  /** What the request in the packet does, in the words of fault plans. */
  #operation(): FaultOperation {
    const opcode = this.#packet[SrbPacket.cdb]!;
    const action = this.#packet[SrbPacket.cdb + 1]! & SERVICE_ACTION_MASK;
    if (opcode === Opcode.serviceActionIn16 && action === ServiceAction.readCapacity16)
      return "read-capacity";
    return operationOf.get(opcode) ?? "other";
  }

  #violation(rule: string, detail: string): void {
    this.#context.violation(rule, detail);
  }

  /** The guest broke the protocol in a way that has no answer: the channel is closed for good. */
  #stop(channel: Channel, rule: string, detail: string): void {
    channel.fail(`ERR_${rule.toUpperCase().replaceAll("-", "_")}`, detail);
  }
}

const operationOf: ReadonlyMap<number, FaultOperation> = new Map<number, FaultOperation>([
  [Opcode.read6, "read"],
  [Opcode.read10, "read"],
  [Opcode.read12, "read"],
  [Opcode.read16, "read"],
  [Opcode.write6, "write"],
  [Opcode.write10, "write"],
  [Opcode.write12, "write"],
  [Opcode.write16, "write"],
  [Opcode.synchronizeCache10, "flush"],
  [Opcode.synchronizeCache16, "flush"],
  [Opcode.unmap, "unmap"],
  [Opcode.inquiry, "inquiry"],
  [Opcode.readCapacity10, "read-capacity"],
  [Opcode.testUnitReady, "test-unit-ready"],
  [Opcode.modeSense6, "mode-sense"],
  [Opcode.modeSense10, "mode-sense"],
  [Opcode.reportLuns, "report-luns"],
]);

function isTransfer(opcode: number): boolean {
  const operation = operationOf.get(opcode);
  return operation === "read" || operation === "write";
}
