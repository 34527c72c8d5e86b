import type { NetvscParameters } from "./parameters.js";
import { ETHERNET_HEADER_BYTES } from "./protocol/index.js";
import type { TransmitSide } from "./queue-description.js";

/** How the channel of an index sends, by what was agreed. @param channels - That share the send buffer. */
export function transmitSideOf(
  parameters: NetvscParameters,
  index: number,
  channels: number,
): TransmitSide {
  const { sendBuffer, offloads } = parameters;
  const count = sendBuffer === undefined ? 0 : Math.floor(sendBuffer.sections / channels);
  return {
    ...(sendBuffer !== undefined &&
      count > 0 && {
        sections: {
          address: sendBuffer.address,
          sectionBytes: sendBuffer.sectionBytes,
          // Each channel has its own: CPUs share nothing but the memory.
          first: (index % channels) * count,
          count,
        },
      }),
    maxPackets: parameters.maxPackets,
    maxBytes: parameters.maxBytes,
    alignmentBytes: parameters.alignmentBytes,
    hashValues: parameters.version >= 0x0005_0000,
    checksums: offloads.transmitChecksums,
    largeSend4BytesMax: offloads.largeSend4BytesMax,
    largeSend6BytesMax: offloads.largeSend6BytesMax,
    frameBytesMax: parameters.mtu + ETHERNET_HEADER_BYTES,
  };
}
