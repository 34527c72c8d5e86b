import {
  FrameInfo,
  FrameInfoPart,
  PacketFault,
  PacketView,
  RndisStatus,
  RndisType,
  get32,
  packetHeaderBytes,
  readPacket,
  tagOfVlanInfo,
} from "@hyperv-is/hv-netvsc/protocol";
import { PacketType, type Guid } from "@hyperv-is/vmbus-core/protocol";
import type { Timers } from "@hyperv-is/vmbus-core";
import type { PacketRecord } from "@hyperv-is/hyperv-host/trace";
import {
  Frame,
  NetworkAdapter,
  OneRun,
  VirtualSwitch,
  noOffloads,
  parseMac,
  privateMemory,
  type NicOptions,
  type Port,
  type PortEnd,
} from "../../src/index.js";
import { transferRanges } from "../../src/trace/network-buffers.js";

/** A network adapter of the recorded host. */
export interface RecordedAdapter extends NicOptions {
  readonly instanceId: Guid;
  /** With colons. */
  readonly mac: string;
}

/** Where the field of a status is in INDICATE_STATUS. */
const INDICATED_STATUS = 8;

/** The rest of the network: takes what the guest sends. */
class Wire implements PortEnd {
  readonly offloads = noOffloads;

  deliver(): boolean {
    return true;
  }

  flush(): void {
    // Nothing waits.
  }

  linkChanged(): void {
    // Its link stays up.
  }
}

/** The network of a recorded host: its adapters, and what came from elsewhere as the trace says it. */
export class ReplayNetwork {
  readonly adapters = new Map<Guid, NetworkAdapter>();
  readonly #switch: VirtualSwitch;
  readonly #wire: Port;
  readonly #frame = new Frame();
  readonly #run = new OneRun();

  constructor(recorded: readonly RecordedAdapter[], timers: Timers) {
    this.#switch = new VirtualSwitch({ timers });
    this.#wire = this.#switch.connect(new Wire(), { name: "wire", kind: "external" });
    for (const { mac, ...adapter } of recorded) {
      const config = { ...adapter, mac: parseMac(mac)!, switch: "lan" };
      this.adapters.set(adapter.instanceId, new NetworkAdapter(config, this.#switch, timers));
    }
  }

  /** Has happen what made the host send this packet, if that came from elsewhere: frames, and changes of the link. */
  happen(instanceId: Guid, record: PacketRecord): void {
    for (const bytes of messagesOf(record)) {
      const type = get32(bytes, 0);
      if (type === RndisType.packet) this.#arrive(bytes);
      else if (type === RndisType.indicateStatus) {
        const status = get32(bytes, INDICATED_STATUS);
        const { port } = this.adapters.get(instanceId)!;
        if (status === RndisStatus.mediaConnect) port.setLink(true);
        if (status === RndisStatus.mediaDisconnect) port.setLink(false);
      }
    }
    this.#switch.flush();
  }

  #arrive(bytes: Uint8Array): void {
    const view = new PacketView();
    const info = new FrameInfo();
    if (readPacket(bytes, 0, bytes.byteLength, view, info) !== PacketFault.none)
      throw new Error("has sent what is no frame");
    const memory = privateMemory((view.dataBytes + 7) & ~7);
    memory.bytes.set(bytes.subarray(view.dataAt, view.dataAt + view.dataBytes));
    this.#run.set(0, view.dataBytes);
    this.#frame.load(memory, this.#run, 0, view.dataBytes);
    if ((info.parts & FrameInfoPart.vlan) !== 0) this.#frame.vlanTag = tagOfVlanInfo(info.vlan);
    this.#wire.send(this.#frame);
  }
}

/** The RNDIS messages that a packet of the host brings, as they were recorded. */
function messagesOf({ bytes, type, data }: PacketRecord): Uint8Array[] {
  if (type !== PacketType.transferPages || data === undefined) return [];
  let at = 0;
  return transferRanges(bytes).map(({ lengthBytes }) => {
    at += lengthBytes;
    return data.bytes.subarray(at - lengthBytes, at);
  });
}

/**
 * What of a packet's data has a meaning, one message behind the other: the rest of a slot holds what was there before.
 *
 * @param packet - of the host, that names the places. @param data - what is there.
 */
export function meaningOf(packet: Uint8Array, data: Uint8Array): Uint8Array {
  let at = 0;
  const pieces = transferRanges(packet).flatMap(({ lengthBytes }) => {
    const message = data.subarray(at, at + lengthBytes);
    at += lengthBytes;
    const view = new PacketView();
    const info = new FrameInfo();
    if (get32(message, 0) !== RndisType.packet) return [message];
    if (readPacket(message, 0, message.byteLength, view, info) !== PacketFault.none)
      return [message];
    return [
      message.subarray(0, packetHeaderBytes(info.parts)),
      message.subarray(view.dataAt, view.dataAt + view.dataBytes),
    ];
  });
  return Buffer.concat(pieces);
}
