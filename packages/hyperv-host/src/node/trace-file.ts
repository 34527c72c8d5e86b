import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { constants, gunzipSync } from "node:zlib";
import type { Clock, Timers } from "@hyperv-is/vmbus-core";
import type { TraceChannels } from "../trace/trace-channels.js";
import { TraceError } from "../trace/trace-error.js";
import { TraceRecorder, type TraceRecorderOptions } from "../trace/trace-recorder.js";
import type { TraceSink } from "../trace/trace-sink.js";

/** A trace into a file: what is recorded, as a user asks for it. */
export interface TraceFileOptions {
  readonly path: string;
  /** Channels whose packets are recorded; all unless given. */
  readonly channels?: TraceChannels;
  /** Bytes of each request's data that are recorded at most; none unless given. */
  readonly dataLimitBytes?: number;
}

/** The same for a thread that joins a trace. */
export interface JoinTraceOptions extends TraceFileOptions {
  readonly originMs: number;
}

/** How long records may wait in a thread before they are in the file. */
const FLUSH_MS = 200;

/**
 * Appends to a file; several threads may have one each on the same file, since each write is whole records.
 * What goes wrong is thrown by `close`: a trace that cannot be written does not stop the machine.
 */
class FileSink implements TraceSink {
  readonly #path: string;
  readonly #file: number;
  #error: unknown;
  #isClosed = false;

  /** @param flags - "w" makes an empty file first. */
  constructor(path: string, flags: "w" | "a") {
    this.#path = path;
    try {
      if (flags === "w") closeSync(openSync(path, "w"));
      this.#file = openSync(path, "a");
    } catch (error) {
      throw fileError(path, error);
    }
  }

  write(bytes: Uint8Array): void {
    if (this.#isClosed || this.#error !== undefined) return;
    try {
      for (let done = 0; done < bytes.byteLength;)
        done += writeSync(this.#file, bytes, done, bytes.byteLength - done);
    } catch (error) {
      this.#error = error;
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    closeSync(this.#file);
    if (this.#error !== undefined) throw fileError(this.#path, this.#error);
  }
}

function fileError(path: string, cause: unknown): TraceError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new TraceError("ERR_TRACE_FILE", `${path}: ${message}`, { cause });
}

/** One thread's part of a trace into a file. */
export class TraceFile {
  readonly recorder: TraceRecorder;
  readonly #sink: FileSink;
  #timers: Timers | undefined;

  private constructor(sink: FileSink, options: Omit<TraceRecorderOptions, "sink" | "filling">) {
    this.#sink = sink;
    this.recorder = new TraceRecorder({ ...options, sink, filling: () => this.#filling() });
  }

  /**
   * Makes the file and begins the trace; the recorder's owner has it `start`ed (a `Partition` does so by itself).
   *
   * @throws TraceError `ERR_TRACE_FILE`
   */
  static create({ path, ...options }: TraceFileOptions, clock: Clock): TraceFile {
    return new TraceFile(new FileSink(path, "w"), { ...options, clock });
  }

  /** Takes part in a trace that another thread has begun. @throws TraceError `ERR_TRACE_FILE` */
  static join({ path, ...options }: JoinTraceOptions, clock: Clock): TraceFile {
    return new TraceFile(new FileSink(path, "a"), { ...options, clock });
  }

  /** Has the file follow what is recorded, so that a machine that dies leaves a trace. */
  follow(timers: Timers): void {
    this.#timers = timers;
  }

  /** Ends this thread's part; idempotent. @throws TraceError `ERR_TRACE_FILE` if something could not be written. */
  close(): void {
    this.recorder.flush();
    this.#sink.close();
  }

  #filling(): void {
    this.#timers?.after(FLUSH_MS, () => this.recorder.flush());
  }
}

/**
 * The bytes of a trace file, plain or compressed by gzip; of a compressed one that is cut off, what can be had.
 *
 * @throws TraceError `ERR_TRACE_FILE`
 */
export function readTraceFile(path: string): Uint8Array {
  try {
    const bytes = readFileSync(path);
    const isCompressed = bytes[0] === 0x1f && bytes[1] === 0x8b;
    return isCompressed ? gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }) : bytes;
  } catch (error) {
    throw fileError(path, error);
  }
}
