/** Object identifiers of QUERY and SET. */
export const Oid = {
  genSupportedList: 0x0001_0101,
  genHardwareStatus: 0x0001_0102,
  genMediaSupported: 0x0001_0103,
  genMediaInUse: 0x0001_0104,
  genMaximumLookahead: 0x0001_0105,
  genMaximumFrameSize: 0x0001_0106,
  genLinkSpeed: 0x0001_0107,
  genTransmitBufferSpace: 0x0001_0108,
  genReceiveBufferSpace: 0x0001_0109,
  genTransmitBlockSize: 0x0001_010a,
  genReceiveBlockSize: 0x0001_010b,
  genVendorId: 0x0001_010c,
  genVendorDescription: 0x0001_010d,
  genCurrentPacketFilter: 0x0001_010e,
  genCurrentLookahead: 0x0001_010f,
  genDriverVersion: 0x0001_0110,
  genMaximumTotalSize: 0x0001_0111,
  genProtocolOptions: 0x0001_0112,
  genMacOptions: 0x0001_0113,
  genMediaConnectStatus: 0x0001_0114,
  genMaximumSendPackets: 0x0001_0115,
  genVendorDriverVersion: 0x0001_0116,
  genNetworkLayerAddresses: 0x0001_0118,
  genTransportHeaderOffset: 0x0001_0119,
  genReceiveScaleCapabilities: 0x0001_0203,
  genReceiveScaleParameters: 0x0001_0204,
  genMaxLinkSpeed: 0x0001_0206,
  genLinkState: 0x0001_0207,
  genLinkParameters: 0x0001_0208,
  genInterruptModeration: 0x0001_0209,
  genMachineName: 0x0001_021a,
  genRndisConfigParameter: 0x0001_021b,
  genVlanId: 0x0001_021c,
  genXmitOk: 0x0002_0101,
  genRcvOk: 0x0002_0102,
  genXmitError: 0x0002_0103,
  genRcvError: 0x0002_0104,
  genRcvNoBuffer: 0x0002_0105,
  genFriendlyName: 0x0002_0216,
  genBytesRcv: 0x0002_0219,
  genBytesXmit: 0x0002_021a,
  ethPermanentAddress: 0x0101_0101,
  ethCurrentAddress: 0x0101_0102,
  ethMulticastList: 0x0101_0103,
  ethMaximumListSize: 0x0101_0104,
  ethMacOptions: 0x0101_0105,
  offloadEncapsulation: 0x0101_010a,
  ethAddMulticast: 0x0101_0208,
  ethDeleteMulticast: 0x0101_0209,
  ethRcvErrorAlignment: 0x0102_0101,
  ethXmitOneCollision: 0x0102_0102,
  ethXmitMoreCollisions: 0x0102_0103,
  tcpOffloadCurrentConfig: 0xfc01_020b,
  tcpOffloadParameters: 0xfc01_020c,
  tcpOffloadHardwareCapabilities: 0xfc01_020d,
} as const;
/** Open enumeration: any u32 may arrive. */
export type Oid = (typeof Oid)[keyof typeof Oid] | (number & {});

/** Value of `genCurrentPacketFilter`: which frames the guest wants. It holds for all channels. */
export const PacketFilter = {
  none: 0,
  directed: 0x01,
  multicast: 0x02,
  allMulticast: 0x04,
  broadcast: 0x08,
  sourceRouting: 0x10,
  promiscuous: 0x20,
  allLocal: 0x80,
} as const;

/** Value of `genMediaConnectStatus`. */
export const MediaConnectStatus = { connected: 0, disconnected: 1 } as const;

/** Value of `genMacOptions`. */
export const MacOption = {
  copyLookaheadData: 0x001,
  transfersNotPend: 0x004,
  noLoopback: 0x008,
  ieee8021p: 0x040,
  ieee8021q: 0x200,
} as const;
/** What hosts answer. */
export const MAC_OPTIONS = 0x24d;
