import type { Guid } from "./guid.js";

/** How FreeBSD names a device of a class. */
export interface FreebsdName {
  /** Driver: the device node's name without its unit number. */
  readonly driver: string;
  /** Between the angle brackets of the probe line; FreeBSD 11 and later. */
  readonly description: string;
}

/** A class of synthetic devices. */
export interface DeviceClassRow {
  readonly classId: Guid;
  readonly name: string;
  /** In the newest tree; undefined if even that has no driver. Without one a device shows up as unknown. */
  readonly freebsd: FreebsdName | undefined;
  /** What Linux's `lsvmbus` prints for the class; undefined if it does not know it. */
  readonly linux: string | undefined;
  /** Linux spreads the interrupts of such a class over the vCPUs; the others stay on vCPU 0. */
  readonly performance: boolean;
  /** Devices whose identity is the same in every virtual machine; the other classes have one per device. */
  readonly instanceIds: readonly Guid[];
}

const RESERVED = "[Reserved system device]";

/**
 * The classes that hosts offer.
 *
 * Fixed instances: what FreeBSD's `devinfo -v` prints on virtual machines in the field.
 */
export const DeviceClass = {
  network: {
    classId: "f8615163-df3e-46c5-913f-f2d2f965ed0e",
    name: "network",
    freebsd: { driver: "hn", description: "Hyper-V Network Interface" },
    linux: "Synthetic network adapter",
    performance: true,
    instanceIds: [],
  },
  scsi: {
    classId: "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f",
    name: "SCSI",
    freebsd: { driver: "storvsc", description: "Hyper-V SCSI" },
    linux: "Synthetic SCSI Controller",
    performance: true,
    instanceIds: [],
  },
  ide: {
    classId: "32412632-86cb-44a2-9b5c-50d1417354f5",
    name: "IDE",
    freebsd: { driver: "storvsc", description: "Hyper-V IDE" },
    linux: "Synthetic IDE Controller",
    performance: true,
    instanceIds: ["00000000-0000-8899-0000-000000000000", "00000000-0001-8899-0000-000000000000"],
  },
  fibreChannel: {
    classId: "2f9bcc4a-0069-4af3-b76b-6fd0be528cda",
    name: "Fibre Channel",
    freebsd: undefined,
    linux: "Synthetic fiber channel adapter",
    performance: true,
    instanceIds: [],
  },
  networkDirect: {
    classId: "8c2eaf3d-32a7-4b09-ab99-bd1f1c86b501",
    name: "Network Direct",
    freebsd: undefined,
    linux: "Synthetic RDMA adapter",
    performance: true,
    instanceIds: [],
  },
  pci: {
    classId: "44c4f61d-4444-4400-9d52-802e27ede19f",
    name: "PCI pass-through",
    freebsd: { driver: "pcib", description: "Hyper-V PCI Express Pass Through" },
    linux: "PCI Express pass-through",
    performance: false,
    instanceIds: [],
  },
  video: {
    classId: "da0a7802-e377-4aac-8e77-0558eb1073f8",
    name: "video",
    freebsd: undefined,
    linux: "Synthetic framebuffer adapter",
    performance: false,
    instanceIds: ["5620e0c7-8062-4dce-aeb7-520c7ef76171"],
  },
  keyboard: {
    classId: "f912ad6d-2b17-48ea-bd65-f927a61c7684",
    name: "keyboard",
    freebsd: { driver: "hvkbd", description: "Hyper-V KBD" },
    linux: "Synthetic keyboard",
    performance: false,
    instanceIds: ["d34b2567-b9b6-42b9-8778-0a4ec0b955bf"],
  },
  mouse: {
    classId: "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a",
    name: "mouse",
    freebsd: { driver: "hvhid", description: "Hyper-V HID device" },
    linux: "Synthetic mouse",
    performance: false,
    instanceIds: ["58f75a6d-d949-4320-99e1-a2a2576d581c"],
  },
  kvp: {
    classId: "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6",
    name: "key-value pair exchange",
    freebsd: { driver: "hvkvp", description: "Hyper-V KVP" },
    linux: "[Data Exchange]",
    performance: false,
    instanceIds: ["242ff919-07db-4180-9c2e-b86cb68c8c55"],
  },
  vss: {
    classId: "35fa2e29-ea23-4236-96ae-3a6ebacba440",
    name: "backup",
    freebsd: { driver: "hvvss", description: "Hyper-V VSS" },
    linux: "[Backup (volume checkpoint)]",
    performance: false,
    instanceIds: ["2450ee40-33bf-4fbd-892e-9fb06e9214cf"],
  },
  heartbeat: {
    classId: "57164f39-9115-4e78-ab55-382f3bd5422d",
    name: "heartbeat",
    freebsd: { driver: "hvheartbeat", description: "Hyper-V Heartbeat" },
    linux: "[Heartbeat]",
    performance: false,
    instanceIds: ["fd149e91-82e0-4a7d-afa6-2a4166cbd7c0"],
  },
  shutdown: {
    classId: "0e0b6031-5213-4934-818b-38d90ced39db",
    name: "shutdown",
    freebsd: { driver: "hvshutdown", description: "Hyper-V Shutdown" },
    linux: "[Operating system shutdown]",
    performance: false,
    instanceIds: ["b6650ff7-33bc-4840-8048-e0676786f393"],
  },
  timeSync: {
    classId: "9527e630-d0ae-497b-adce-e80ab0175caf",
    name: "time synchronization",
    freebsd: { driver: "hvtimesync", description: "Hyper-V Timesync" },
    linux: "[Time Synchronization]",
    performance: false,
    instanceIds: ["2dd1ce17-079e-403c-b352-a1921ee207ee"],
  },
  fileCopy: {
    classId: "34d14be3-dee4-41c8-9ae7-6b174977c192",
    name: "guest file copy",
    freebsd: undefined,
    linux: "[Guest services]",
    performance: false,
    instanceIds: ["eb765408-105f-49b6-b4aa-c123b64d17d4"],
  },
  dynamicMemory: {
    classId: "525074dc-8985-46e2-8057-a307dc18a502",
    name: "dynamic memory",
    freebsd: undefined,
    linux: "[Dynamic Memory]",
    performance: false,
    instanceIds: ["1eccfd72-4b41-45ef-b73a-4a6e44c12924"],
  },
  activation: {
    classId: "f8e65716-3cb3-4a06-9a60-1889c5cccab5",
    name: "activation",
    freebsd: undefined,
    linux: RESERVED,
    performance: false,
    instanceIds: ["99221fa0-24ad-11e2-be98-001aa01bbf6e"],
  },
  inheritedActivation: {
    classId: "3375baf4-9e15-4b30-b765-67acb10d607b",
    name: "inherited activation",
    freebsd: undefined,
    linux: RESERVED,
    performance: false,
    instanceIds: ["4487b255-b88c-403f-bb51-d1f69cf17f87"],
  },
  remoteDesktop: {
    classId: "276aacf4-ac15-426c-98dd-7521ad3f01fe",
    name: "remote desktop",
    freebsd: undefined,
    linux: RESERVED,
    performance: false,
    instanceIds: ["f5bee29c-1741-4aad-a4c2-8fdedb46dcc2"],
  },
  machineConfiguration: {
    classId: "c376c1c3-d276-48d2-90a9-c04748072c60",
    name: "initial machine configuration",
    freebsd: undefined,
    linux: undefined,
    performance: false,
    instanceIds: [],
  },
} as const satisfies Readonly<Record<string, DeviceClassRow>>;

/** All device classes. */
export const deviceClasses: readonly DeviceClassRow[] = Object.values(DeviceClass);

const byId: ReadonlyMap<Guid, DeviceClassRow> = new Map(
  deviceClasses.map((row) => [row.classId, row]),
);

/** The class with this GUID; undefined for one of which nothing is known. */
export function deviceClassOf(classId: Guid): DeviceClassRow | undefined {
  return byId.get(classId);
}
