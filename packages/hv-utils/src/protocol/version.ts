import type { Field } from "@hyperv-is/vmbus-core/protocol";

/** A framework or message version: major << 16 | minor, so that numbers compare as versions do. */
export type IcVersion = number;

/** Bytes of a version on the wire: u16 major, u16 minor. */
export const IC_VERSION_BYTES = 4;

/** Version `major`.`minor`, each a u16. `formatVersion` of vmbus-core writes it as text. */
export function icVersion(major: number, minor = 0): IcVersion {
  return major * 0x1_0000 + minor;
}

/** A version in a structure. */
export function versionField(offset: number): Field<IcVersion> {
  return {
    offset,
    width: IC_VERSION_BYTES,
    read: (view) => icVersion(view.getUint16(offset, true), view.getUint16(offset + 2, true)),
    write: (view, value) => {
      if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
        throw new RangeError(`${value} is not a version`);
      view.setUint16(offset, value >>> 16, true);
      view.setUint16(offset + 2, value & 0xffff, true);
    },
  };
}

/** What one side can speak. */
export interface IcVersionLists {
  /** Versions of the framing, which all components share. */
  readonly frameworks: readonly IcVersion[];
  /** Versions of the component's own messages. */
  readonly messages: readonly IcVersion[];
}

/** What both sides have agreed on. */
export interface IcVersions {
  readonly framework: IcVersion;
  readonly message: IcVersion;
}

const v1_0 = icVersion(1);
const v3_0 = icVersion(3);
const v3_1 = icVersion(3, 1);
const v3_2 = icVersion(3, 2);
const v4_0 = icVersion(4);

/** Framework versions that exist, best first. All hosts offer both. */
export const frameworkVersions: readonly IcVersion[] = [v3_0, v1_0];

/** Message versions of the heartbeat, best first. Source: FreeBSD, Linux. */
export const heartbeatVersions: readonly IcVersion[] = [v3_0, v1_0];

/** Message versions of shutdown, best first: 3.1 brought the restart, 3.2 hibernation. Source: Linux, OpenVMM. */
export const shutdownVersions: readonly IcVersion[] = [v3_2, v3_1, v3_0, v1_0];

/** Message versions of time synchronisation, best first; 4.0 has another body than the others. Source: OpenVMM, Linux. */
export const timeSyncVersions: readonly IcVersion[] = [v4_0, v3_0, v1_0];
