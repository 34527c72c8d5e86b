import { PlatformError } from "./errors.js";
import { library } from "./libc.js";
import { settle } from "./settle.js";

/** Makes up for a caller's own immediate, see `NodeLoop.timeoutMs`. */
const nothing = (): void => undefined;

/** What is used of libuv, V8 and Node: symbols that Node exports for native add-ons. Addresses are numbers. */
interface LoopFunctions {
  current(): number;
  loopOf(isolate: number): number;
  backendFd(loop: number): number;
  backendTimeout(loop: number): number;
}

let functions: LoopFunctions | undefined;

/**
 * The event loop of Node on this thread, for a callback that blocks the thread in its place: what libuv has for that, a file
 * that can be read when there are events and the time of the next timer (docs.libuv.org, `uv_backend_fd`).
 */
export class NodeLoop {
  /** Can be read when Node has events to serve. */
  readonly fd: number;
  readonly #loop: number;
  readonly #functions: LoopFunctions;

  /** @throws PlatformError `ERR_KOFFI_MISSING`; `ERR_NODE_LOOP` if this Node does not export its loop. */
  constructor() {
    this.#functions = functions ??= bind();
    this.#loop = this.#functions.loopOf(this.#functions.current());
    this.fd = this.#functions.backendFd(this.#loop);
  }

  /** False where there can be none. */
  static isExported(): boolean {
    try {
      functions ??= bind();
      return true;
    } catch (error) {
      if (error instanceof PlatformError) return false;
      throw error;
    }
  }

  /**
   * To be called in an immediate, before `timeoutMs`: while that runs, Node's loop still counts it as pending, until the last of
   * all is unreferenced.
   */
  forgetImmediate(): void {
    const last = setImmediate(nothing);
    last.unref();
    clearImmediate(last);
  }

  /**
   * How long the thread may block, from the last turn of the loop on: 0 if there is something to do first, as a file that
   * the kernel does not know of yet.
   */
  timeoutMs(): number {
    const timeoutMs = this.#functions.backendTimeout(this.#loop);
    return timeoutMs < 0 ? Infinity : timeoutMs;
  }
}

function bind(): LoopFunctions {
  try {
    const node = library(null);
    if (settle === undefined) throw new Error("process._tickCallback is gone");
    return {
      current: node.func("uintptr_t _ZN2v87Isolate10GetCurrentEv()"),
      loopOf: node.func(
        "uintptr_t _ZN4node19GetCurrentEventLoopEPN2v87IsolateE(uintptr_t isolate)",
      ),
      backendFd: node.func("int uv_backend_fd(uintptr_t loop)"),
      backendTimeout: node.func("int uv_backend_timeout(uintptr_t loop)"),
    };
  } catch (cause) {
    if (cause instanceof PlatformError) throw cause;
    throw new PlatformError(
      "ERR_NODE_LOOP",
      `files cannot be watched with this Node, which does not export its event loop: ${(cause as Error).message}`,
      { cause },
    );
  }
}
