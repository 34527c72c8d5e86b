// Sizes that hosts and guests have in practice. Sources: OpenVMM `netvsp`, FreeBSD `if_hnreg.h`, Linux `hyperv_net.h`.

/** Bytes of an Ethernet header, and of an 802.1Q tag in it. */
export const ETHERNET_HEADER_BYTES = 14;
export const VLAN_TAG_BYTES = 4;

/** Bytes of a section of the send buffer. */
export const SEND_SECTION_BYTES = 6144;

/** How a host divides the receive buffer: room for the RNDIS header, the frame, and room that some guests need unused. */
export const ReceiveSlot = { headerBytes: 256, footerBytes: 36 } as const;
/** Slots at the start of the receive buffer that a host keeps for control messages. */
export const RESERVED_CONTROL_SLOTS = 16;
/** Bytes of a slot of Windows hosts. */
export const RECEIVE_SLOT_BYTES_WINDOWS = 1728;

/** Most ranges of a transfer-page packet, without and with receive segment coalescing. */
export const RANGES_PER_PACKET_MAX = 375;
export const RANGES_PER_PACKET_MAX_RSC = 562;

/** Most channels beside the primary one. */
export const SUB_CHANNELS_MAX = 64;
/** What hosts say in `maxMdlChainLength`. */
export const MDL_CHAIN_MAX = 34;

/** Bytes of the receive buffer: up to version 2, and later. */
export const RECEIVE_BUFFER_BYTES = { v2: 15 << 20, later: 16 << 20, max: 31 << 20 } as const;
/** Bytes of the send buffer. */
export const SEND_BUFFER_BYTES = { freebsd: 15 << 20, linux: 1 << 20, max: 15 << 20 } as const;

/** Class GUID of network adapters. */
export const NETWORK_CLASS_ID = "f8615163-df3e-46c5-913f-f2d2f965ed0e";
