import { writeSync } from "node:fs";
import type { Doorbell } from "./doorbell.js";
import { PlatformError } from "./errors.js";
import { EpollEvent, libc, type LibC } from "./libc.js";
import { startWorker, type WorkerHandle } from "./worker-handle.js";

const EFD_CLOEXEC = 0o2_000_000;
const EFD_NONBLOCK = 0o4_000;
const EPOLL_CLOEXEC = 0o2_000_000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
const EPOLLIN = 1;
/** What has come is told once, until it is asked for again. */
const EPOLLONESHOT = 1 << 30;
/** What an eventfd is written with: it can be read then. */
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

/** What the thread that waits is given. */
export interface FileAlarmData {
  readonly epollFd: number;
  /** Can be read when the alarm is to end. */
  readonly stopFd: number;
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
  readonly #libc: LibC;
  readonly #fds: number[] = [];
  readonly #epollFd: number;
  readonly #stopFd: number;
  readonly #armed = new Int32Array(new SharedArrayBuffer(4));
  readonly #event = new Uint32Array(EpollEvent.WORDS);
  readonly #eventBytes = new Uint8Array(this.#event.buffer);
  readonly #thread: WorkerHandle;

  /**
   * @param fds - Files that stay open until they are removed, or the alarm is closed.
   * @throws PlatformError `ERR_KOFFI_MISSING`; `ERR_FILE_ALARM` for a file that cannot be waited for.
   */
  constructor(doorbell: Doorbell, fds: readonly number[]) {
    this.#libc = libc();
    this.#epollFd = this.#libc.epollCreate(EPOLL_CLOEXEC);
    this.#stopFd = this.#libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    this.#ask(EPOLL_CTL_ADD, this.#stopFd, EPOLLIN);
    for (const fd of fds) this.add(fd);
    const data: FileAlarmData = {
      epollFd: this.#epollFd,
      stopFd: this.#stopFd,
      armed: this.#armed,
      words: doorbell.words,
      index: doorbell.index,
    };
    this.#thread = startWorker({
      entry: "@hyperv-is/platform-node/file-alarm-worker",
      from: import.meta.url,
      name: "file alarm",
      data,
      spinLimitUs: 0,
    });
  }

  /** Watches one more file, from the next `arm` on. */
  add(fd: number): void {
    this.#ask(EPOLL_CTL_ADD, fd, 0);
    this.#fds.push(fd);
    Atomics.store(this.#armed, 0, 0);
  }

  /** Watches a file no longer: it may be closed. */
  remove(fd: number): void {
    const at = this.#fds.indexOf(fd);
    if (at < 0) return;
    this.#fds.splice(at, 1);
    this.#libc.epollControl(this.#epollFd, EPOLL_CTL_DEL, fd, this.#eventBytes);
  }

  /** Has the doorbell rung as soon as a file can be read, once. To be called before the last look at the files. */
  arm(): void {
    if (Atomics.exchange(this.#armed, 0, 1) !== 0) return;
    this.#event[EpollEvent.events] = EPOLLIN | EPOLLONESHOT;
    for (const fd of this.#fds) {
      this.#event[EpollEvent.value] = fd;
      // A file that is broken has been taken out, and is not asked about any more.
      this.#libc.epollControl(this.#epollFd, EPOLL_CTL_MOD, fd, this.#eventBytes);
    }
  }

  /** Ends the alarm. The files may be closed when this resolves. */
  async close(): Promise<void> {
    const stopped = this.#thread.stop();
    writeSync(this.#stopFd, ONE);
    await stopped;
    this.#libc.close(this.#stopFd);
    this.#libc.close(this.#epollFd);
  }

  #ask(operation: number, fd: number, events: number): void {
    this.#event[EpollEvent.events] = events;
    this.#event[EpollEvent.value] = fd;
    if (this.#libc.epollControl(this.#epollFd, operation, fd, this.#eventBytes) === 0) return;
    const code = this.#libc.errorName(this.#libc.errno());
    throw new PlatformError("ERR_FILE_ALARM", `file ${fd} cannot be waited for (${code})`);
  }
}
