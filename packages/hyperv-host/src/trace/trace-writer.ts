import type { Clock } from "@hyperv-is/vmbus-core";
import { RecordHeader, TICKS_PER_MS } from "./trace-format.js";
import type { TraceSink } from "./trace-sink.js";

const BUFFER_BYTES = 1 << 16;

/** What a writer needs of its thread. */
export interface TraceWriterOptions {
  readonly sink: TraceSink;
  readonly clock: Clock;
  /** When the trace began, on the clock: every thread of a trace has the same. */
  readonly originMs: number;
  /** Is told when there is something to flush, after there was nothing. */
  readonly filling?: (() => void) | undefined;
}

/**
 * Puts the records of one thread into a buffer, and hands whole ones to the sink when it is full or told to.
 * A record is built in place: `begin`, then every byte of its body.
 */
export class TraceWriter {
  readonly #sink: TraceSink;
  readonly #clock: Clock;
  readonly #originMs: number;
  readonly #filling: (() => void) | undefined;
  #bytes = new Uint8Array(BUFFER_BYTES);
  #view = new DataView(this.#bytes.buffer);
  /** Bytes in the buffer. */
  #end = 0;

  constructor({ sink, clock, originMs, filling }: TraceWriterOptions) {
    this.#sink = sink;
    this.#clock = clock;
    this.#originMs = originMs;
    this.#filling = filling;
  }

  /** Begins a record. @param bodyBytes - exactly so many will be put. */
  begin(kind: number, flags: number, vp: number, bodyBytes: number): void {
    const lengthBytes = RecordHeader.SIZE + bodyBytes;
    if (this.#end + lengthBytes > this.#bytes.byteLength) this.#makeRoom(lengthBytes);
    if (this.#end === 0) this.#filling?.();
    const ticks = Math.max(0, Math.round((this.#clock.now() - this.#originMs) * TICKS_PER_MS));
    const { fields } = RecordHeader;
    const at = this.#end;
    const view = this.#view;
    view.setUint32(at + fields.lengthBytes.offset, lengthBytes, true);
    view.setUint8(at + fields.kind.offset, kind);
    view.setUint8(at + fields.flags.offset, flags);
    view.setUint16(at + fields.vp.offset, vp, true);
    view.setUint32(at + fields.time.offset, ticks % 2 ** 32, true);
    view.setUint32(at + fields.time.offset + 4, Math.floor(ticks / 2 ** 32), true);
    this.#end = at + RecordHeader.SIZE;
  }

  putU32(value: number): void {
    this.#view.setUint32(this.#end, value, true);
    this.#end += 4;
  }

  putBytes(source: Uint8Array): void {
    this.#bytes.set(source, this.#end);
    this.#end += source.byteLength;
  }

  /** Hands what is in the buffer to the sink; between two records. */
  flush(): void {
    if (this.#end === 0) return;
    this.#sink.write(this.#bytes.subarray(0, this.#end));
    this.#end = 0;
  }

  #makeRoom(lengthBytes: number): void {
    this.flush();
    if (lengthBytes <= this.#bytes.byteLength) return;
    this.#bytes = new Uint8Array(lengthBytes);
    this.#view = new DataView(this.#bytes.buffer);
  }
}
