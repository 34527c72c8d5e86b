import { writeSync } from "node:fs";
import type { Doorbell } from "./doorbell.js";
import { libc } from "./libc.js";
import { startWorker, type WorkerHandle } from "./worker-handle.js";

const EFD_CLOEXEC = 0o2_000_000;
const EFD_NONBLOCK = 0o4_000;
/** What an eventfd is written with: it can be read then. */
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

/** What the thread that waits is given. */
export interface FileAlarmData {
  readonly fds: readonly number[];
  /** Can be read when `armed` was set, or the alarm is to end. */
  readonly wakeFd: number;
  /** Shared; 1 while the doorbell is to be rung. */
  readonly armed: Int32Array;
  /** The doorbell. */
  readonly words: Int32Array;
  readonly index: number;
}

/**
 * Rings the doorbell of a thread when one of its files can be read. A thread of its own waits for that: the owner may
 * sleep in any way, and only before it sleeps is anything asked of the kernel.
 */
export class FileAlarm {
  readonly #wakeFd: number;
  readonly #armed = new Int32Array(new SharedArrayBuffer(4));
  readonly #thread: WorkerHandle;

  /**
   * @param fds - Files that stay open until the alarm is closed.
   * @throws PlatformError `ERR_KOFFI_MISSING`.
   */
  constructor(doorbell: Doorbell, fds: readonly number[]) {
    this.#wakeFd = libc().eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const { words, index } = doorbell;
    const data: FileAlarmData = { fds, wakeFd: this.#wakeFd, armed: this.#armed, words, index };
    this.#thread = startWorker({
      entry: "@hyperv-is/platform-node/file-alarm-worker",
      from: import.meta.url,
      name: "file alarm",
      data,
      spinLimitUs: 0,
    });
  }

  /** Has the doorbell rung as soon as a file can be read, once. To be called before the last look at the files. */
  arm(): void {
    if (Atomics.exchange(this.#armed, 0, 1) === 0) writeSync(this.#wakeFd, ONE);
  }

  /** Ends the alarm. The files may be closed when this resolves. */
  async close(): Promise<void> {
    const stopped = this.#thread.stop();
    writeSync(this.#wakeFd, ONE);
    await stopped;
    libc().close(this.#wakeFd);
  }
}
