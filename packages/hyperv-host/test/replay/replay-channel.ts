import {
  Channel,
  IncomingRing,
  OutgoingRing,
  RingArea,
  SendResult,
  type ChannelClosedReason,
  type ChannelHandler,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import {
  ControlPage,
  GpaDirect,
  Packet,
  PacketType,
  parseGpaRanges,
  type GpaRange,
} from "@hyperv-is/vmbus-core/protocol";

/** The guest's end of a channel in a replay: puts packets as they were recorded, keeps what arrives. */
export class ReplayChannel implements ChannelHandler {
  readonly relid: number;
  readonly flag: number;
  readonly channel: Channel;
  /** Packets of the host that were not asked for yet: whole, without trailer. */
  readonly arrived: Uint8Array[] = [];
  /** Memory of the requests that wait for their completion, by transaction id. */
  readonly #requests = new Map<bigint, readonly GpaRange[]>();

  /**
   * @param pages - addresses of both rings' pages, guest to host first. @param split - pages of the first.
   * @param flag - event flag by which the host announces packets. @param signal - signals the host.
   */
  constructor(
    memory: GuestMemory,
    relid: number,
    pages: readonly number[],
    split: number,
    flag: number,
    signal: () => void,
  ) {
    this.relid = relid;
    this.flag = flag;
    // A guest's new rings are empty; these may lie where others were.
    for (const page of [pages[0]!, pages[split]!]) memory.clear(page, ControlPage.SIZE);
    this.channel = new Channel(
      new IncomingRing(new RingArea(memory, pages.slice(split))),
      new OutgoingRing(new RingArea(memory, pages.slice(0, split))),
      { signal },
      this,
    );
  }

  /** Puts a packet and publishes it. @returns False if the ring is full. */
  send(packet: Uint8Array): boolean {
    const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
    const type = view.getUint16(Packet.type, true);
    const headerBytes = view.getUint16(Packet.dataOffset8, true) * 8;
    const result = this.channel.begin(
      type,
      view.getUint16(Packet.flags, true),
      headerBytes,
      packet.byteLength,
      view.getInt32(Packet.transactionIdLow, true),
      view.getInt32(Packet.transactionIdHigh, true),
    );
    if (result === SendResult.Full) return false;
    if (result !== SendResult.Ready) throw new Error(`channel ${this.relid} is closed`);
    const { descriptorBytes } = Packet;
    this.channel.outgoing.putBytes(packet, descriptorBytes, packet.byteLength - descriptorBytes);
    this.channel.outgoing.end();
    this.channel.flush();
    if (type === PacketType.gpaDirect)
      this.#requests.set(view.getBigUint64(Packet.transactionIdLow, true), rangesOf(packet));
    return true;
  }

  /** The memory of the request that a completion is for; none if it brought none. */
  takeRanges(transactionId: bigint): readonly GpaRange[] {
    const ranges = this.#requests.get(transactionId) ?? [];
    this.#requests.delete(transactionId);
    return ranges;
  }

  packet({ incoming }: Channel): void {
    this.arrived.push(incoming.copyOut(0, incoming.packetBytes));
  }

  batchEnd(): void {
    // A replay answers when the trace does.
  }

  spaceArrived(): void {
    // A full ring is tried again once the host has run.
  }

  closed(_: Channel, reason: ChannelClosedReason): void {
    if (reason === "corrupt") throw new Error(`the host corrupted the ring of ${this.relid}`);
  }
}

/** The ranges of a GPA-direct packet; none if they contradict themselves. */
export function rangesOf(packet: Uint8Array): readonly GpaRange[] {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  const headerBytes = view.getUint16(Packet.dataOffset8, true) * 8;
  const outcome = parseGpaRanges(
    packet.subarray(GpaDirect.ranges),
    view.getUint32(GpaDirect.rangeCount, true),
    headerBytes - GpaDirect.ranges,
  );
  return outcome.kind === "ok" ? outcome.ranges : [];
}
