import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import {
  DeviceClass,
  OfferFlag,
  type DeviceClassRow,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import {
  INTEGRATION_COMPONENT_FLAGS,
  messagePipeUserData,
  type DeviceOffer,
} from "./vmbus/offers.js";

/** How the offer of a class looks. */
interface OfferForm {
  readonly row: DeviceClassRow;
  readonly flags: number;
  /** Packets have pipe framing, and the user data say so. */
  readonly isPipe: boolean;
}

/** Offered as integration components are: enumerated, with pipe framing. */
const component = (row: DeviceClassRow): OfferForm => ({
  row,
  flags: INTEGRATION_COMPONENT_FLAGS,
  isPipe: true,
});

/** Pipe framing, not enumerated. */
const pipe = (row: DeviceClassRow): OfferForm => ({
  row,
  flags: OfferFlag.namedPipeMode,
  isPipe: true,
});

const plain = (row: DeviceClassRow): OfferForm => ({ row, flags: 0, isPipe: false });

/**
 * What every generation-2 virtual machine is offered beside its disks and network adapters. The flags of
 * the first five and of video, mouse and keyboard are those that OpenVMM offers; it does not have the
 * others, whose flags are unverified. Guests look at none of them.
 */
const forms: readonly OfferForm[] = [
  component(DeviceClass.heartbeat),
  component(DeviceClass.kvp),
  component(DeviceClass.shutdown),
  component(DeviceClass.timeSync),
  component(DeviceClass.vss),
  component(DeviceClass.fileCopy),
  plain(DeviceClass.dynamicMemory),
  pipe(DeviceClass.mouse),
  plain(DeviceClass.keyboard),
  pipe(DeviceClass.video),
  plain(DeviceClass.activation),
  plain(DeviceClass.inheritedActivation),
  plain(DeviceClass.remoteDesktop),
];

/**
 * The offers that every virtual machine shows, apart from disks and network adapters, for a host that
 * passes for a real one. About half of them find no driver in FreeBSD.
 *
 * A device without a service on its worker can be opened and stays silent, see `absentService`.
 *
 * @param worker - index of the host worker that has them. @param without - classes to leave out.
 */
export function standardDevices(
  worker: number,
  without: readonly DeviceClassRow[] = [],
): DeviceOffer[] {
  return forms
    .filter(({ row }) => !without.includes(row))
    .flatMap(({ row, flags, isPipe }) =>
      row.instanceIds.map((instanceId) => ({
        classId: row.classId,
        instanceId,
        flags,
        ...(isPipe && { userData: messagePipeUserData() }),
        worker,
      })),
    );
}

/** The offers of SCSI controllers. @param worker - index of the host worker that has their disks. */
export function controllerOffers(
  controllers: readonly { readonly instanceId: Guid }[],
  worker: number,
): DeviceOffer[] {
  return controllers.map(({ instanceId }) => ({
    classId: StorageClassId.scsi,
    instanceId,
    flags: OfferFlag.enumerateDeviceInterface,
    worker,
  }));
}

/** The offers of network adapters. @param worker - index of the host worker that has them. */
export function adapterOffers(
  adapters: readonly { readonly instanceId: Guid }[],
  worker: number,
): DeviceOffer[] {
  return adapters.map(({ instanceId }) => ({
    classId: DeviceClass.network.classId,
    instanceId,
    flags: OfferFlag.enumerateDeviceInterface,
    worker,
  }));
}
