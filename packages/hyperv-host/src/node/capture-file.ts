import { closeSync, openSync, writeSync } from "node:fs";
import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import { Capture, type CaptureSink } from "../switch/capture.js";
import type { Port } from "../switch/port.js";

/** How long frames may wait before they are in the file. */
const FLUSH_MS = 200;

/** What of a port is captured. */
export interface CaptureFileOptions {
  readonly path: string;
  /** Name of the interface in the file. */
  readonly name: string;
  readonly snapBytes?: number;
  /** Frames that are captured at most; any number unless told. */
  readonly count?: number;
}

/** A capture of a port into a pcapng file, from the time it is made until it is closed. */
export class CaptureFile implements CaptureSink {
  readonly path: string;
  readonly #file: number;
  readonly #port: Port;
  readonly #timers: Timers;
  readonly #capture: Capture;
  #timer: Timer | undefined;
  #error: unknown;
  #isClosed = false;

  /** Throws Node's error if the file cannot be made. */
  constructor(port: Port, timers: Timers, { path, name, ...limits }: CaptureFileOptions) {
    this.path = path;
    this.#file = openSync(path, "w");
    this.#port = port;
    this.#timers = timers;
    this.#capture = new Capture(this, {
      name,
      clock: timers,
      originMs: Date.now() - timers.now(),
      ...limits,
    });
    port.addObserver(this.#capture);
    this.#flushLater();
  }

  /** Frames that were captured. */
  get frames(): number {
    return this.#capture.frames;
  }

  write(bytes: Uint8Array): void {
    if (this.#error !== undefined) return;
    try {
      for (let done = 0; done < bytes.byteLength;)
        done += writeSync(this.#file, bytes, done, bytes.byteLength - done);
    } catch (error) {
      this.#error = error;
    }
  }

  /** Ends the capture; throws what went wrong while the file was written. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#timer?.cancel();
    this.#port.removeObserver(this.#capture);
    this.#capture.flush();
    closeSync(this.#file);
    if (this.#error !== undefined) throw this.#error as Error;
  }

  #flushLater(): void {
    this.#timer = this.#timers.after(FLUSH_MS, () => {
      this.#capture.flush();
      this.#flushLater();
    });
  }
}
