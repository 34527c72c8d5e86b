import type { GuestMemory } from "@hyperv-is/vmbus-core";
import type { ScsiDisk, StorvscController } from "@hyperv-is/hv-storvsc";
import type { BlockDevice } from "../kernel/block-device.js";
import type { CamBus, CamDisk } from "../kernel/guest-system.js";
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

  constructor(unit: number, disk: ScsiDisk, bus: Bus, memory: GuestMemory) {
    this.unit = unit;
    this.disk = disk;
    this.simName = bus.simName;
    this.scbus = bus.scbus;
    this.#memory = memory;
    this.#controller = bus.controller;
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

  get writeCache(): boolean {
    return this.disk.writeCache;
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
    return this.disk.read(position / this.blockBytes, this.#window(address, lengthBytes));
  }

  write(position: number, address: number, lengthBytes: number): Promise<void> {
    return this.disk.write(position / this.blockBytes, this.#window(address, lengthBytes));
  }

  flush(): Promise<void> {
    return this.disk.flush();
  }

  unmap(position: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    return this.disk.unmap([{ lba: position / blockBytes, blocks: lengthBytes / blockBytes }]);
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

  /** The controllers in the order they came, and the transport layer's own bus. */
  get buses(): readonly CamBus[] {
    return [...this.#buses, { scbus: -1, simName: "xpt0" }];
  }

  get disks(): readonly CamDisk[] {
    return [...this.#disks.values()].sort((left, right) => left.unit - right.unit);
  }

  /** Takes a controller in: scans its bus, and follows what happens to its disks. @param unit - of the driver. */
  async attach(controller: StorvscController, unit: number): Promise<void> {
    const simName = `${controller.kind === "ide" ? "blkvsc" : "storvsc"}${unit}`;
    const bus: Bus = { scbus: this.#buses.length, simName, controller };
    this.#buses.push(bus);
    controller.onChange(({ kind, disk }) => {
      if (kind === "added") this.#add(bus, disk);
      else if (kind === "removed") this.#remove(disk);
      else if (kind === "resized") this.#announceSize(this.#disks.get(disk));
    });
    await controller.rescan();
    for (const disk of controller.disks) this.#add(bus, disk);
  }

  #add(bus: Bus, disk: ScsiDisk): void {
    if (this.#disks.has(disk)) return;
    const taken = new Set(Array.from(this.#disks.values(), ({ unit }) => unit));
    let unit = 0;
    while (taken.has(unit)) unit++;
    const da = new DaDisk(unit, disk, bus, this.#memory);
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
    const { name, simName, target, lun } = da;
    this.#dmesg.print(
      `${name} at ${this.#place(da)}`,
      `${name}: ${identityText(da)} detached`,
      `(${name}:${simName}:0:${target}:${lun}): Periph destroyed`,
    );
  }

  #announceSize(da: DaDisk | undefined): void {
    if (da === undefined) return;
    const megabytes = Math.floor(da.sizeBytes / 2 ** 20);
    this.#dmesg.print(`${da.name}: ${megabytes}MB (${da.blocks} ${da.blockBytes} byte sectors)`);
  }

  #place({ simName, scbus, target, lun }: DaDisk): string {
    return `${simName} bus 0 scbus${scbus} target ${target} lun ${lun}`;
  }
}

/** `<Msft Virtual Disk 1.0>`. */
function identityText({ vendor, product, revision }: CamDisk): string {
  return `<${[vendor, product, revision].filter((part) => part !== "").join(" ")}>`;
}
