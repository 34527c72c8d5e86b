import type { Doorbell } from "./doorbell.js";
import { FixedMemory } from "./fixed-memory.js";
import { libc, type LibC } from "./libc.js";
import type { NodeLoop } from "./node-loop.js";
import { PollSet } from "./poll-set.js";

const EFD_CLOEXEC = 0o2_000_000;
const EFD_NONBLOCK = 0o4_000;
const EVENT_BYTES = 8;
/** A ring that is about to write is a system call away, unless its thread is terminated there. */
const LATE_RING_MS = 100;

/** Place of Node's loop among the files. */
const NODE = 1;

/**
 * How the owner of a doorbell sleeps until it rings, one of some files can be read, or Node has events to serve, whichever
 * comes first. It blocks the thread. An eventfd is among the files: the first ring of a sleep writes to it.
 */
export class FileWait {
  readonly #libc: LibC = libc();
  readonly #doorbell: Doorbell;
  readonly #eventFd: number;
  readonly #event = new FixedMemory(new Uint8Array(EVENT_BYTES));
  readonly #own = new PollSet();
  readonly #files = new PollSet();

  /** @param node - What there is of Node's loop. Throws `PlatformError` `ERR_KOFFI_MISSING`. */
  constructor(doorbell: Doorbell, node: NodeLoop) {
    this.#doorbell = doorbell;
    this.#eventFd = this.#libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    this.#own.add(this.#eventFd);
    this.#files.add(this.#eventFd);
    this.#files.add(node.fd);
  }

  add(fd: number): void {
    this.#files.add(fd);
  }

  /** Changes what is asked of a file, see `PollSet.ask`. */
  ask(fd: number, events: number): void {
    this.#files.ask(fd, events);
  }

  remove(fd: number): void {
    this.#files.remove(fd);
  }

  /** Announces a sleep. The caller looks for work after this and before `wait`, and calls `disarm` in any case. */
  arm(): void {
    this.#doorbell.armFile(this.#eventFd);
  }

  /** Blocks the thread for `timeoutMs` at most, which may have a fraction. @returns False after a time-out. */
  wait(timeoutMs: number): boolean {
    const isWoken = this.#files.wait(timeoutMs);
    if (isWoken) this.#files.leaveOutBroken();
    return isWoken;
  }

  /** Node has events to serve, as the last `wait` found. */
  get hasNodeEvents(): boolean {
    return this.#files.hasNews(NODE);
  }

  /** True if the last `wait` found the file at this place, in the order of `add`, to have news. */
  hasNews(index: number): boolean {
    return this.#files.hasNews(NODE + 1 + index);
  }

  /** Ends what `arm` began. Nobody writes to the eventfd afterwards, so that it may be closed. */
  disarm(): void {
    if (!this.#doorbell.disarmFile()) return;
    if (this.#take() || !this.#own.wait(LATE_RING_MS)) return;
    this.#take();
  }

  close(): void {
    this.#libc.close(this.#eventFd);
  }

  #take(): boolean {
    return this.#libc.read(this.#eventFd, this.#event.address, EVENT_BYTES) === EVENT_BYTES;
  }
}
