import {
  GpaRanges,
  GpaRangesResult,
  SendResult,
  type Channel,
  type ChannelHandler,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  emitScsiReply,
  emitVstorHeader,
  parseScsiRequest,
  parseVstorHeader,
  SENSE_AREA_BYTES,
  VstorOperation,
  type ScsiRequest,
} from "../src/protocol/index.js";

/** One packet of the guest, copied out of the ring. */
export interface HostRequest {
  readonly type: number;
  readonly flags: number;
  readonly idLow: number;
  readonly idHigh: number;
  readonly operation: number;
  /** The vstor packet. */
  readonly packet: Uint8Array;
  /** GPA and length of each run of the one range. */
  readonly runs: readonly (readonly [address: number, lengthBytes: number])[];
  readonly ranges: number;
  /** Of EXECUTE_SRB. */
  readonly scsi: ScsiRequest | undefined;
}

/** What a SCSI target says. */
export interface ScsiAnswer {
  readonly srbStatus: number;
  readonly scsiStatus: number;
  /** Bytes moved. */
  readonly transferred?: number;
  readonly sense?: Uint8Array;
}

/** Answers one packet: the vstor packet to complete it with, or undefined to leave it open. */
export type HostScript = (request: HostRequest, host: ScriptedHost) => Uint8Array | undefined;

/** The storage host of a test: reads every packet of the guest, keeps it, and answers as its script says. */
export class ScriptedHost implements ChannelHandler {
  readonly requests: HostRequest[] = [];
  script: HostScript;
  channel: Channel | undefined;
  readonly memory: GuestMemory;
  readonly #ranges: GpaRanges;

  constructor(memory: GuestMemory, script: HostScript) {
    this.memory = memory;
    this.script = script;
    this.#ranges = new GpaRanges(memory);
  }

  /** The SCSI requests so far. */
  get scsi(): ScsiRequest[] {
    return this.requests.flatMap(({ scsi }) => (scsi === undefined ? [] : [scsi]));
  }

  /** Opcodes of the SCSI requests so far. */
  get opcodes(): number[] {
    return this.scsi.map((request) => request.cdb[0]!);
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    const ranges = this.#ranges;
    ranges.clear();
    if (incoming.type === PacketType.gpaDirect && ranges.load(incoming) !== GpaRangesResult.Ok)
      throw new Error("the guest sent ranges that name no memory");
    const packet = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    const operation = parseVstorHeader(packet)!.operation;
    const request: HostRequest = {
      type: incoming.type,
      flags: incoming.flags,
      idLow: incoming.idLow,
      idHigh: incoming.idHigh,
      operation,
      packet,
      ranges: ranges.count,
      runs: Array.from({ length: ranges.runs }, (_, run) => [
        ranges.runAddress(run),
        ranges.runLength(run),
      ]),
      scsi: operation === VstorOperation.executeSrb ? parseScsiRequest(packet) : undefined,
    };
    this.requests.push(request);
    const reply = this.script(request, this);
    if (reply !== undefined) this.complete(request, reply);
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(): void {
    throw new Error("the scripted host does not wait for room");
  }

  closed(): void {
    // The test sees it at the guest's end.
  }

  /** Completes a request, now or later. */
  complete({ idLow, idHigh }: HostRequest, packet: Uint8Array): void {
    this.send(PacketType.completion, 0, idLow, idHigh, packet);
  }

  /** Completes a SCSI request. */
  answer(request: HostRequest, answer: ScsiAnswer): void {
    this.complete(request, scsiReply(request.packet.byteLength, answer));
    this.channel!.flush();
  }

  /** Puts any packet into the guest's ring; `channel.flush` publishes it. */
  send(type: number, flags: number, idLow: number, idHigh: number, payload: Uint8Array): void {
    const { outgoing } = this.channel!;
    const result = this.channel!.begin(type, flags, 16, 16 + payload.byteLength, idLow, idHigh);
    if (result !== SendResult.Ready) throw new Error("the guest's ring is full");
    outgoing.putBytes(payload, 0, payload.byteLength);
    outgoing.end();
  }

  /** Bytes of the request's data. */
  read(request: HostRequest): Uint8Array {
    const bytes = request.runs.flatMap(([address, length]) => [
      ...this.memory.bytes.subarray(address, address + length),
    ]);
    return Uint8Array.from(bytes);
  }

  /** Puts data where the request wants it; returns how much fitted. */
  write(request: HostRequest, data: Uint8Array): number {
    let at = 0;
    for (const [address, length] of request.runs) {
      const piece = data.subarray(at, at + length);
      this.memory.bytes.set(piece, address);
      at += piece.byteLength;
    }
    return at;
  }
}

/** A plain COMPLETE_IO of the size that a host mirrors. */
export function reply(requestBytes: number, status = 0): Uint8Array {
  const packet = new Uint8Array(Math.min(requestBytes, 64));
  emitVstorHeader(packet, { operation: VstorOperation.completeIo, flags: 0, status });
  return packet;
}

/** The completion of a SCSI request, modelled on OpenVMM's. */
export function scsiReply(requestBytes: number, answer: ScsiAnswer): Uint8Array {
  const packet = reply(requestBytes, answer.srbStatus === 1 ? 0 : 0xc000_0185);
  const sense = new Uint8Array(SENSE_AREA_BYTES);
  if (answer.sense !== undefined) sense.set(answer.sense);
  emitScsiReply(packet, {
    length: packet.byteLength - 12,
    srbStatus: answer.srbStatus,
    scsiStatus: answer.scsiStatus,
    cdbLength: 16,
    senseInfoLength: SENSE_AREA_BYTES,
    dataTransferLength: answer.transferred ?? 0,
    sense,
  });
  return packet;
}
