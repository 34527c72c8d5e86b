import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { LbaStatus, RotationRate } from "@hyperv-is/hv-storvsc/protocol";
import type { ScsiDisk, StorvscController } from "@hyperv-is/hv-storvsc";
import type { BlockDevice } from "../kernel/block-device.js";
import type { CamBus, CamDisk, DiskExtent } from "../kernel/guest-system.js";
import { Errno, type IoError } from "../kernel/io-error.js";
import { lowestFree } from "../kernel/lowest-free.js";
import type { MessageBuffer } from "../kernel/message-buffer.js";
import { ScsiBlockDevice } from "./scsi-block-device.js";

/** FreeBSD's text for the version field of INQUIRY data. */
const scsiVersions: ReadonlyMap<number, string> = new Map([
  [3, "SPC"],
  [4, "SPC-2"],
  [5, "SPC-3"],
  [6, "SPC-4"],
  [7, "SPC-5"],
]);

interface Bus extends CamBus {
  readonly controller: StorvscController;
}

/** A disk of the CAM layer, over the driver's. */
class DaDisk extends ScsiBlockDevice implements CamDisk {
  readonly unit: number;
  readonly simName: string;
  readonly scbus: number;
  readonly controller: StorvscController;

  constructor(
    unit: number,
    disk: ScsiDisk,
    { simName, scbus, controller }: Bus,
    memory: GuestMemory,
    onError: (disk: DaDisk, error: IoError) => void,
  ) {
    super(`da${unit}`, disk, memory, (error) => onError(this, error));
    this.unit = unit;
    this.simName = simName;
    this.scbus = scbus;
    this.controller = controller;
  }

  get passName(): string {
    return `pass${this.unit}`;
  }

  get target(): number {
    return this.disk.target;
  }

  get lun(): number {
    return this.disk.lun;
  }

  get vendor(): string {
    return this.disk.vendor;
  }

  get product(): string {
    return this.disk.product;
  }

  get revision(): string {
    return this.disk.revision;
  }

  get ident(): string {
    return this.disk.identity.serial ?? this.disk.identity.name ?? "";
  }

  get unmapSupported(): boolean {
    return this.disk.unmapLimits !== undefined;
  }

  get unmappedReadsZero(): boolean {
    return this.disk.capacity.unmappedReadsZero;
  }

  get isRotational(): boolean {
    return this.disk.rotationRate > RotationRate.nonRotating;
  }

  get writeCache(): boolean {
    return this.disk.writeCache;
  }

  async allocation(position: number): Promise<readonly DiskExtent[] | undefined> {
    const { blockBytes } = this;
    let extents: readonly DiskExtent[] | undefined;
    await this.watch(
      this.disk.lbaStatus(position / blockBytes).then((told) => {
        extents = told?.map(({ lba, blocks, status }) => ({
          position: lba * blockBytes,
          lengthBytes: blocks * blockBytes,
          isHole: status === LbaStatus.deallocated,
        }));
      }),
    );
    return extents;
  }

  get blocks(): number {
    return this.disk.blocks;
  }

  get device(): BlockDevice {
    return this;
  }

  async inquiry(): Promise<Uint8Array> {
    await this.disk.lookAgain();
    return this.disk.inquiryData;
  }

  testUnitReady(): Promise<void> {
    return this.disk.testReady();
  }

  async readCapacity(): Promise<{ readonly lastBlock: number; readonly blockBytes: number }> {
    await this.disk.lookAgain();
    return { lastBlock: this.blocks - 1, blockBytes: this.blockBytes };
  }

  /** What `camcontrol rescan` asks the bus for. */
  rescan(): Promise<void> {
    return this.controller.rescan();
  }
}

/** The SCSI layer: numbers buses and disks as they come, announces them in dmesg, and forgets those that go. */
export class Cam {
  readonly #dmesg: MessageBuffer;
  readonly #memory: GuestMemory;
  readonly #buses: Bus[] = [];
  readonly #disks = new Map<ScsiDisk, DaDisk>();

  constructor(dmesg: MessageBuffer, memory: GuestMemory) {
    this.#dmesg = dmesg;
    this.#memory = memory;
  }

  /** The controllers by their numbers, and the transport layer's own bus. */
  get buses(): readonly CamBus[] {
    return [...this.#buses, { scbus: -1, simName: "xpt0" }];
  }

  get disks(): readonly CamDisk[] {
    return [...this.#disks.values()].sort((left, right) => left.unit - right.unit);
  }

  /** A disk by its name, with the controller that it is on. */
  find(
    name: string,
  ): { readonly disk: ScsiDisk; readonly controller: StorvscController } | undefined {
    return [...this.#disks.values()].find((da) => da.name === name);
  }

  /**
   * Takes a controller in: scans its bus, and follows what happens to its disks. Rejects, and leaves it out, when
   * it goes away meanwhile.
   *
   * @param unit - of the driver.
   */
  async attach(controller: StorvscController, unit: number): Promise<void> {
    const simName = `${controller.kind === "ide" ? "blkvsc" : "storvsc"}${unit}`;
    const scbus = lowestFree(this.#buses.map((bus) => bus.scbus));
    const bus: Bus = { scbus, simName, controller };
    this.#buses.push(bus);
    this.#buses.sort((left, right) => left.scbus - right.scbus);
    controller.onChange(({ kind, disk }) => {
      if (kind === "added") this.#add(bus, disk);
      else if (kind === "removed") this.#remove(disk);
      else if (kind === "resized") this.#announceSize(this.#disks.get(disk));
    });
    try {
      await controller.rescan();
    } catch (error) {
      this.detach(controller);
      throw error;
    }
    for (const disk of controller.disks) this.#add(bus, disk);
  }

  /** Forgets a controller that is gone; its disks are gone already. */
  detach(controller: StorvscController): void {
    const at = this.#buses.findIndex((bus) => bus.controller === controller);
    if (at >= 0) this.#buses.splice(at, 1);
  }

  #add(bus: Bus, disk: ScsiDisk): void {
    if (this.#disks.has(disk)) return;
    const unit = lowestFree(Array.from(this.#disks.values(), (da) => da.unit));
    const da = new DaDisk(unit, disk, bus, this.#memory, this.#announceError);
    this.#disks.set(disk, da);
    const version = scsiVersions.get(disk.inquiry.version) ?? `SCSI-${disk.inquiry.version}`;
    const kind = disk.inquiry.removable ? "Removable" : "Fixed";
    const { name } = da;
    this.#dmesg.print(
      `${name} at ${this.#place(da)}`,
      `${name}: ${identityText(da)} ${kind} Direct Access ${version} SCSI device`,
      `${name}: 300.000MB/s transfers`,
      ...(disk.inquiry.commandQueueing ? [`${name}: Command Queueing enabled`] : []),
    );
    this.#announceSize(da);
    if (da.readOnly) this.#dmesg.print(`${name}: Write Protected`);
  }

  #remove(disk: ScsiDisk): void {
    const da = this.#disks.get(disk);
    if (da === undefined) return;
    this.#disks.delete(disk);
    this.#dmesg.print(
      `${da.name} at ${this.#place(da)}`,
      `${da.name}: ${identityText(da)} detached`,
      `${pathText(da)}: Periph destroyed`,
    );
  }

  readonly #announceError = (da: DaDisk, { code, cause }: IoError): void => {
    // A disk that is gone is announced as such.
    if (code === "ENXIO") return;
    this.#dmesg.print(
      `${pathText(da)}: ${(cause as Error).message}`,
      `${pathText(da)}: Error ${Errno[code][0]}, Unretryable error`,
    );
  };

  #announceSize(da: DaDisk | undefined): void {
    if (da === undefined) return;
    const megabytes = Math.floor(da.sizeBytes / 2 ** 20);
    this.#dmesg.print(`${da.name}: ${megabytes}MB (${da.blocks} ${da.blockBytes} byte sectors)`);
  }

  #place({ simName, scbus, target, lun }: DaDisk): string {
    return `${simName} bus 0 scbus${scbus} target ${target} lun ${lun}`;
  }
}

/** `(da0:storvsc0:0:0:0)`: the peripheral, its SIM, bus, target and LUN. */
function pathText({ name, simName, target, lun }: DaDisk): string {
  return `(${name}:${simName}:0:${target}:${lun})`;
}

/** `<Msft Virtual Disk 1.0>`. */
function identityText({ vendor, product, revision }: CamDisk): string {
  return `<${[vendor, product, revision].filter((part) => part !== "").join(" ")}>`;
}
