import type { DataBuffer } from "./data-buffer.js";
import type { AsyncDiskBackend, BackendEnded, DiskBackend } from "./disk-backend.js";
import { SectorTransfer } from "./sector-transfer.js";

/** A backend that answers at once, where one that may answer later is expected. Allocates nothing. */
export class ImmediateBackend implements AsyncDiskBackend {
  readonly disk: DiskBackend;
  readonly #transfer: SectorTransfer;

  constructor(disk: DiskBackend) {
    this.disk = disk;
    this.#transfer = new SectorTransfer(disk);
  }

  read(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    try {
      this.#transfer.read(sector, lengthBytes, buffer);
    } catch (error) {
      ended(error);
      return;
    }
    ended();
  }

  write(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    try {
      this.#transfer.write(sector, lengthBytes, buffer);
    } catch (error) {
      ended(error);
      return;
    }
    ended();
  }

  flush(ended: BackendEnded): void {
    try {
      this.disk.flush();
    } catch (error) {
      ended(error);
      return;
    }
    ended();
  }

  whenIdle(work: () => void): void {
    work();
  }
}
