import { NO_OFFLOADS } from "./offload-choice.js";
import type {
  AgreedOffloads,
  AgreedScaling,
  NetvscParameters,
  ReceiveBuffer,
  SendBuffer,
} from "./parameters.js";
import { NDIS_MAJOR, type NvspVersion } from "./protocol/index.js";

/** Bytes of an Ethernet address. */
export const ADDRESS_BYTES = 6;

/** What an attach has agreed on so far; the fields get their values in the order of its steps. */
export class Agreement {
  receiveBuffer: ReceiveBuffer | undefined;
  sendBuffer: SendBuffer | undefined;
  maxPackets = 1;
  maxBytes = 0;
  alignmentBytes = 1;
  offloads: AgreedOffloads = NO_OFFLOADS;
  scaling: AgreedScaling | undefined;
  address: Uint8Array = new Uint8Array(ADDRESS_BYTES);
  mtu: number;
  linkSpeed = 0;

  /** @param mtu - As wanted. */
  constructor(mtu: number) {
    this.mtu = mtu;
  }

  /** All of it as plain data; there is a receive buffer. */
  parameters(version: NvspVersion, linkUp: boolean): NetvscParameters {
    const { receiveBuffer, sendBuffer, scaling, ...rest } = this;
    return {
      version: version.value,
      packetBytes: version.packetBytes,
      ndisMajor: NDIS_MAJOR,
      ndisMinor: version.ndisMinor,
      receiveBuffer: receiveBuffer!,
      ...(sendBuffer !== undefined && { sendBuffer }),
      ...(scaling !== undefined && { scaling }),
      ...rest,
      linkUp,
    };
  }
}
