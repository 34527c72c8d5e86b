/** What one version of the storage protocol fixes. Sizes in bytes. */
export interface VstorVersion {
  /** Windows release that brought it. */
  readonly name: string;
  /** u16 on the wire: major << 8 | minor. */
  readonly value: number;
  /** Every packet of this version, header included. */
  readonly packetBytes: number;
  /** What `length` of a SCSI request says: the payload of an EXECUTE_SRB. */
  readonly requestBytes: number;
  /** What the guest asks for in `senseInfoLength`; the sense area is 20 bytes wide in every version. */
  readonly senseBytes: number;
  /** CREATE_SUB_CHANNELS may be sent. */
  readonly multiChannel: boolean;
  /** The host may send ENUMERATE_BUS. */
  readonly enumerateBus: boolean;
}

/** Packet of 5.1 and later, and the most that any host or guest sends. */
export const VSTOR_PACKET_BYTES = 64;
/** Packet of 2.0 and 4.2: without the 16 bytes of the Windows 8 extension. */
export const VSTOR_PACKET_BYTES_LEGACY = 48;

function row(name: string, value: number, extended: boolean, enumerateBus: boolean): VstorVersion {
  return {
    name,
    value,
    packetBytes: extended ? VSTOR_PACKET_BYTES : VSTOR_PACKET_BYTES_LEGACY,
    requestBytes: extended ? 52 : 36,
    senseBytes: extended ? 20 : 18,
    multiChannel: extended,
    enumerateBus,
  };
}

/**
 * The versions in the order in which a FreeBSD guest proposes them: newest first.
 *
 * Source: hv_vstorage.h, storvsc_drv.c, storvsp_protocol. The version does not depend on the version of VMBus.
 */
export const vstorVersions: readonly VstorVersion[] = [
  row("Windows 10", 0x0602, true, true),
  row("Windows 8.1", 0x0600, true, true),
  row("Windows 8", 0x0501, true, true),
  row("Windows 7", 0x0402, false, true),
  row("Windows Server 2008", 0x0200, false, false),
];

/** The row of a version as it stands on the wire; undefined for a version nobody knows. */
export function findVstorVersion(value: number): VstorVersion | undefined {
  return vstorVersions.find((version) => version.value === value);
}
