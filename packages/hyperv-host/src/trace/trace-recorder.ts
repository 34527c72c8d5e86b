import type { Clock, GuestMemory } from "@hyperv-is/vmbus-core";
import { DeviceClass, Msr, VMBUS_SINT, type Guid } from "@hyperv-is/vmbus-core/protocol";
import {
  PartitionRegister,
  VpRegister,
  type HypervisorState,
} from "../hypervisor/hypervisor-state.js";
import type { PostedMessage } from "../hypervisor/message-queue.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { ChannelTrace } from "./channel-trace.js";
import { NetworkBuffers, type GpadlLookup } from "./network-buffers.js";
import { isTraced, type TraceChannels } from "./trace-channels.js";
import {
  GuestMessageBody,
  HostMessageBody,
  NO_VP,
  RecordFlag,
  RecordKind,
  RegisterBody,
  TRACE_MAGIC,
  TraceHeader,
  TraceVersion,
} from "./trace-format.js";
import type { TraceSink } from "./trace-sink.js";
import { TraceWriter } from "./trace-writer.js";

/** What is recorded, and where it goes. */
export interface TraceRecorderOptions {
  readonly sink: TraceSink;
  readonly clock: Clock;
  /** Channels whose packets are recorded; all unless given. Control messages are recorded in any case. */
  readonly channels?: TraceChannels;
  /** Bytes of each request's data that are recorded at most; none unless given. */
  readonly dataLimitBytes?: number;
  /** When the trace began, on the clock; now unless given. Recorders of one trace have the same. */
  readonly originMs?: number;
  /** Is told when there is something to flush, after there was nothing. */
  readonly filling?: () => void;
}

/**
 * Records what one thread of the host exchanges with the guest. To be handed to a `Partition`, or to the
 * `VmbusServer` and each `HostWorker` of a host over threads, where every thread has its own.
 *
 * Who makes it calls `flush` whenever the sink shall have everything, and at the end.
 */
export class TraceRecorder {
  readonly originMs: number;
  readonly dataLimitBytes: number;
  readonly #sink: TraceSink;
  readonly #writer: TraceWriter;
  readonly #channels: TraceChannels | undefined;
  /** Value of each register in its last record. */
  readonly #registers = new Map<string, bigint>();
  /** Of network adapters, by their instances. */
  readonly #buffers = new Map<Guid, NetworkBuffers>();

  constructor(options: TraceRecorderOptions) {
    const { sink, clock, originMs = clock.now(), dataLimitBytes = 0, filling } = options;
    this.originMs = originMs;
    this.dataLimitBytes = dataLimitBytes;
    this.#sink = sink;
    this.#writer = new TraceWriter({ sink, clock, originMs, filling });
    this.#channels = options.channels;
  }

  /** Writes the header of the trace: once, before anything else of any thread. */
  start(memory: GuestMemory, vps: number): void {
    const header = TraceHeader.emit({
      ...TraceVersion,
      headerBytes: TraceHeader.SIZE,
      memoryBytes: BigInt(memory.sizeBytes),
      vps,
      dataLimitBytes: this.dataLimitBytes,
    });
    header.set(TRACE_MAGIC);
    this.#sink.write(header);
  }

  /** The host takes a message that the guest posted. */
  posted({ vp, connectionId, type, payload }: PostedMessage, state: HypervisorState): void {
    this.#recordRegisters(state);
    const writer = this.#writer;
    const bodyBytes = GuestMessageBody.SIZE + payload.byteLength;
    writer.begin(RecordKind.guestMessage, 0, vp, bodyBytes);
    writer.putU32(connectionId);
    writer.putU32(type);
    writer.putBytes(payload);
  }

  /** A message of the host is in the guest's slot, or lost because its SINT takes none. */
  delivered(
    vp: number,
    sint: number,
    bytes: Uint8Array,
    isLost: boolean,
    state: HypervisorState,
  ): void {
    this.#recordRegisters(state);
    const writer = this.#writer;
    const flags = isLost ? RecordFlag.lost : 0;
    writer.begin(RecordKind.hostMessage, flags, vp, HostMessageBody.SIZE + bytes.byteLength);
    writer.putU32(sint);
    writer.putU32(0);
    writer.putBytes(bytes);
  }

  /**
   * The trace of a channel that is being opened; undefined if it is not one of those to trace.
   *
   * @param gpadl - finds what the guest shares on this channel.
   */
  channel(
    opening: ChannelOpening,
    memory: GuestMemory,
    gpadl: GpadlLookup,
  ): ChannelTrace | undefined {
    if (this.#channels !== undefined && !isTraced(this.#channels, opening)) return undefined;
    const network = this.#buffersOf(opening);
    const buffers = network && { gpadl, network };
    return new ChannelTrace(opening, this.#writer, memory, this.dataLimitBytes, buffers);
  }

  /** Hands everything so far to the sink. */
  flush(): void {
    this.#writer.flush();
  }

  /** The buffers of a network adapter, which its primary channel brings along. */
  #buffersOf({ classId, instanceId, subChannelIndex }: ChannelOpening): NetworkBuffers | undefined {
    if (classId !== DeviceClass.network.classId) return undefined;
    const known = subChannelIndex === 0 ? undefined : this.#buffers.get(instanceId);
    const buffers = known ?? new NetworkBuffers();
    this.#buffers.set(instanceId, buffers);
    return buffers;
  }

  /**
   * Registers are looked at when a message goes over: those that have changed are recorded, and what a guest
   * wrote and took back in between is not.
   */
  #recordRegisters(state: HypervisorState): void {
    for (const [msr, register] of partitionRegisters)
      this.#register(NO_VP, msr, state.loadRegister(state.partitionRegister(register)));
    for (let vp = 0; vp < state.vpCount; vp++)
      for (const [msr, register] of vpRegisters)
        this.#register(vp, msr, state.loadRegister(state.vpRegister(vp, register)));
  }

  #register(vp: number, msr: number, value: bigint): void {
    const name = `${vp}:${msr}`;
    if (this.#registers.get(name) === value) return;
    this.#registers.set(name, value);
    const writer = this.#writer;
    writer.begin(RecordKind.register, 0, vp, RegisterBody.SIZE);
    writer.putU32(msr);
    writer.putU32(0);
    writer.putU32(Number(BigInt.asUintN(32, value)));
    writer.putU32(Number(value >> 32n));
  }
}

const partitionRegisters: readonly (readonly [number, number])[] = [
  [Msr.guestOsId, PartitionRegister.guestOsId],
  [Msr.hypercall, PartitionRegister.hypercall],
];

const vpRegisters: readonly (readonly [number, number])[] = [
  [Msr.simp, VpRegister.simp],
  [Msr.siefp, VpRegister.siefp],
  [Msr.sint0 + VMBUS_SINT, VpRegister.sint0 + 2 * VMBUS_SINT],
  [Msr.scontrol, VpRegister.scontrol],
];
