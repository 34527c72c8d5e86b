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

/** A file that is watched. */
interface WatchedFile {
  readonly fd: number;
  /** Is told when the file can be read, or what else it is asked. */
  readonly news: (() => void) | undefined;
}

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
  /** In the order in which they follow the doorbell's and Node's in `#files`. */
  readonly #watched: WatchedFile[] = [];
  #hasListeners = false;

  /** @param node - What there is of Node's loop. Throws `PlatformError` `ERR_KOFFI_MISSING`. */
  constructor(doorbell: Doorbell, node: NodeLoop) {
    this.#doorbell = doorbell;
    this.#eventFd = this.#libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    this.#own.add(this.#eventFd);
    this.#files.add(this.#eventFd);
    this.#files.add(node.fd);
  }

  /** Watches a file until the function that is returned is called. @param news - Is called by `tellNews`. */
  watch(fd: number, news: (() => void) | undefined): () => void {
    this.#files.add(fd);
    const file = { fd, news };
    this.#watched.push(file);
    this.#watchedChanged();
    return () => {
      const at = this.#watched.indexOf(file);
      if (at < 0) return;
      this.#watched.splice(at, 1);
      this.#watchedChanged();
      this.#files.remove(fd);
    };
  }

  get isWatching(): boolean {
    return this.#watched.length > 0;
  }

  /** Some of the files have somebody who is told of news. */
  get hasListeners(): boolean {
    return this.#hasListeners;
  }

  /** Changes what is asked of a file, see `PollSet.ask`. */
  ask(fd: number, events: number): void {
    this.#files.ask(fd, events);
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

  /** Tells of the files that the last `wait` found to have news. */
  tellNews(): void {
    if (!this.#hasListeners) return;
    for (let index = 0; index < this.#watched.length; index++)
      if (this.#files.hasNews(NODE + 1 + index)) this.#watched[index]!.news?.();
  }

  /** Tells of news that are there now, without a sleep, if there is somebody to be told. @returns True if there were any. */
  takeNews(): boolean {
    if (!this.#hasListeners || !this.wait(0)) return false;
    this.tellNews();
    return true;
  }

  /** Ends what `arm` began. Nobody writes to the eventfd afterwards, so that it may be closed. */
  disarm(): void {
    if (!this.#doorbell.disarmFile()) return;
    if (this.#take() || !this.#own.wait(LATE_RING_MS)) return;
    this.#take();
  }

  /** Watches nothing any more. */
  close(): void {
    this.#watched.length = 0;
    this.#watchedChanged();
    this.#libc.close(this.#eventFd);
  }

  #watchedChanged(): void {
    this.#hasListeners = this.#watched.some(({ news }) => news !== undefined);
  }

  #take(): boolean {
    return this.#libc.read(this.#eventFd, this.#event.address, EVENT_BYTES) === EVENT_BYTES;
  }
}
