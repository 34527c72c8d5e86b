import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { LbaStatus, RotationRate } from "@hyperv-is/hv-storvsc/protocol";
import type {
  DiskCompletions,
  DiskQueue,
  ScsiDisk,
  StorvscController,
} from "@hyperv-is/hv-storvsc";
import type { BlockDevice } from "../kernel/block-device.js";
import type { CamBus, CamDisk, DiskExtent } from "../kernel/guest-system.js";
import { Errno, IoError } from "../kernel/io-error.js";
import { lowestFree } from "../kernel/lowest-free.js";
import type { MessageBuffer } from "../kernel/message-buffer.js";

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
class DaDisk implements CamDisk, BlockDevice {
  readonly unit: number;
  readonly disk: ScsiDisk;
  readonly simName: string;
  readonly scbus: number;
  readonly #memory: GuestMemory;
  readonly #controller: StorvscController;
  readonly #onError: (error: IoError) => void;
  /** What the last command failed with; undefined if it did not. */
  #lastError: Errno | undefined;

  /** @param onError - Hears the first of a row of equal errors. */
  constructor(
    unit: number,
    disk: ScsiDisk,
    bus: Bus,
    memory: GuestMemory,
    onError: (disk: DaDisk, error: IoError) => void,
  ) {
    this.unit = unit;
    this.disk = disk;
    this.simName = bus.simName;
    this.scbus = bus.scbus;
    this.#memory = memory;
    this.#controller = bus.controller;
    this.#onError = (error) => onError(this, error);
  }

  get name(): string {
    return `da${this.unit}`;
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

  get queueDepthMax(): number {
    return this.disk.queueDepthMax;
  }

  openQueue(depth: number, completions: DiskCompletions): DiskQueue {
    return this.disk.openQueue(depth, completions);
  }

  async allocation(position: number): Promise<readonly DiskExtent[] | undefined> {
    const { blockBytes } = this;
    let extents: readonly DiskExtent[] | undefined;
    await this.#watch(
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

  get sizeBytes(): number {
    return this.disk.sizeBytes;
  }

  get blockBytes(): number {
    return this.disk.blockBytes;
  }

  get physicalBlockBytes(): number {
    return this.disk.physicalBlockBytes;
  }

  get readOnly(): boolean {
    return this.disk.writeProtected;
  }

  get maxTransferBytes(): number {
    return this.disk.maxTransferBytes;
  }

  read(position: number, address: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    return this.#watch(this.disk.read(position / blockBytes, this.#window(address, lengthBytes)));
  }

  write(position: number, address: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    return this.#watch(this.disk.write(position / blockBytes, this.#window(address, lengthBytes)));
  }

  flush(): Promise<void> {
    return this.#watch(this.disk.flush());
  }

  unmap(position: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    const range = { lba: position / blockBytes, blocks: lengthBytes / blockBytes };
    return this.#watch(this.disk.unmap([range]));
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
    return this.#controller.rescan();
  }

  /** Makes what a command of the driver fails with an error of the kernel, and tells of it. */
  async #watch(command: Promise<void>): Promise<void> {
    try {
      await command;
      this.#lastError = undefined;
    } catch (cause) {
      const error = new IoError(cause as Error);
      if (this.#lastError !== error.code) this.#onError(error);
      this.#lastError = error.code;
      throw error;
    }
  }

  #window(address: number, lengthBytes: number): Uint8Array {
    return this.#memory.bytes.subarray(address, address + lengthBytes);
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
