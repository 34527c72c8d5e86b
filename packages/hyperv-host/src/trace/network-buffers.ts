import {
  NvspSendReceiveBuffer,
  NvspSendRndisPacket,
  NvspSendSendBuffer,
  NvspType,
  SECTION_INDEX_NONE,
  SEND_SECTION_BYTES,
  get32,
} from "@hyperv-is/hv-netvsc/protocol";
import {
  PAGE_SIZE,
  TransferPageRange,
  TransferPages,
  type GpaRange,
} from "@hyperv-is/vmbus-core/protocol";

/** Finds a GPADL of a channel by its id. */
export type GpadlLookup = (gpadlId: number) => readonly GpaRange[] | undefined;

/**
 * The two buffers that a guest lends to a network adapter, as its messages say: frames and RNDIS messages lie there, and
 * only their places are in packets. One serves all channels of a device.
 */
export class NetworkBuffers {
  #receive: readonly GpaRange[] | undefined;
  #send: readonly GpaRange[] | undefined;

  /** What of the send buffer a packet of the guest names, in order. @param payload - of the packet. */
  sent(payload: Uint8Array, gpadl: GpadlLookup): readonly GpaRange[] {
    if (payload.byteLength < 4) return [];
    switch (get32(payload, 0)) {
      case NvspType.sendReceiveBuffer: {
        const message = NvspSendReceiveBuffer.parse(payload);
        this.#receive = message && gpadl(message.gpadl);
        return [];
      }
      case NvspType.sendSendBuffer: {
        const message = NvspSendSendBuffer.parse(payload);
        this.#send = message && gpadl(message.gpadl);
        return [];
      }
      case NvspType.sendRndisPacket: {
        const message = NvspSendRndisPacket.parse(payload);
        if (message === undefined || message.sectionIndex === SECTION_INDEX_NONE) return [];
        return partOf(this.#send, message.sectionIndex * SEND_SECTION_BYTES, message.sectionBytes);
      }
      default:
        return [];
    }
  }

  /** What of the receive buffer a transfer-pages packet of the host names, in order. */
  received(packet: Uint8Array): readonly GpaRange[] {
    return transferRanges(packet).flatMap(({ offset, lengthBytes }) =>
      partOf(this.#receive, offset, lengthBytes),
    );
  }
}

/** The ranges of a transfer-pages packet: places in a buffer. */
export function transferRanges(
  packet: Uint8Array,
): readonly { readonly offset: number; readonly lengthBytes: number }[] {
  const count = get32(packet, TransferPages.rangeCount);
  return Array.from({ length: count }, (_, index) => {
    const at = TransferPages.ranges + index * TransferPageRange.SIZE;
    return {
      offset: get32(packet, at + TransferPageRange.byteOffset),
      lengthBytes: get32(packet, at + TransferPageRange.byteCount),
    };
  });
}

/** A part of a buffer, whose GPADL is one range of whole pages; nothing where there is no such part. */
function partOf(
  buffer: readonly GpaRange[] | undefined,
  offset: number,
  lengthBytes: number,
): readonly GpaRange[] {
  const pfns = buffer?.[0]?.pfns ?? [];
  const end = offset + lengthBytes;
  if (lengthBytes === 0 || end > pfns.length * PAGE_SIZE) return [];
  return [
    {
      byteCount: lengthBytes,
      byteOffset: offset % PAGE_SIZE,
      pfns: pfns.slice(Math.floor(offset / PAGE_SIZE), Math.ceil(end / PAGE_SIZE)),
    },
  ];
}
