import type { DiskCompletions, DiskQueue, ScsiDisk } from "@hyperv-is/hv-storvsc";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import type { BlockDevice } from "../kernel/block-device.js";
import { IoError, type Errno } from "../kernel/io-error.js";

/** A driver's disk as a device of the kernel: bytes in place of blocks, and the kernel's errors. */
export class ScsiBlockDevice implements BlockDevice {
  readonly name: string;
  readonly disk: ScsiDisk;
  readonly #memory: GuestMemory;
  readonly #onError: (error: IoError) => void;
  /** What the last command failed with; undefined if it did not. */
  #lastError: Errno | undefined;
  #commands = 0;

  /** @param onError - Hears the first of a row of equal errors. */
  constructor(
    name: string,
    disk: ScsiDisk,
    memory: GuestMemory,
    onError: (error: IoError) => void = () => undefined,
  ) {
    this.name = name;
    this.disk = disk;
    this.#memory = memory;
    this.#onError = onError;
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

  /** Depth that `openQueue` can give now. */
  get queueDepthMax(): number {
    return this.disk.queueDepthMax;
  }

  /** Commands that have not ended, besides those of queues. */
  get commands(): number {
    return this.#commands;
  }

  /** Opens the driver's fast path, as `ScsiDisk.openQueue`. */
  openQueue(depth: number, completions: DiskCompletions): DiskQueue {
    return this.disk.openQueue(depth, completions);
  }

  read(position: number, address: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    return this.watch(this.disk.read(position / blockBytes, this.#window(address, lengthBytes)));
  }

  write(position: number, address: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    return this.watch(this.disk.write(position / blockBytes, this.#window(address, lengthBytes)));
  }

  flush(): Promise<void> {
    return this.watch(this.disk.flush());
  }

  unmap(position: number, lengthBytes: number): Promise<void> {
    const { blockBytes } = this;
    const range = { lba: position / blockBytes, blocks: lengthBytes / blockBytes };
    return this.watch(this.disk.unmap([range]));
  }

  /** Makes what a command of the driver fails with an error of the kernel, and tells of it. */
  protected async watch(command: Promise<void>): Promise<void> {
    this.#commands++;
    try {
      await command;
      this.#lastError = undefined;
    } catch (cause) {
      const error = new IoError(cause as Error);
      if (this.#lastError !== error.code) this.#onError(error);
      this.#lastError = error.code;
      throw error;
    } finally {
      this.#commands--;
    }
  }

  #window(address: number, lengthBytes: number): Uint8Array {
    return this.#memory.bytes.subarray(address, address + lengthBytes);
  }
}
