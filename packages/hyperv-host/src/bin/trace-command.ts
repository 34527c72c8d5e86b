import { readTraceFile } from "../node/trace-file.js";
import { TraceDecoder, type DecodedRecord } from "../trace/decode/trace-decoder.js";
import { traceLine } from "../trace/decode/trace-text.js";
import { TraceError } from "../trace/trace-error.js";
import { readTrace, type Trace } from "../trace/trace-reader.js";
import { writeOut } from "./standard-output.js";

/** What `hyperv-host trace` is asked for. */
export interface TraceCommandOptions {
  readonly path: string;
  /** JSON objects, one a line. */
  readonly json: boolean;
  /** Only what is about the channel with this relid. */
  readonly relid?: number;
}

/** Characters that are written in one go. */
const CHUNK_LENGTH = 1 << 16;

/**
 * Prints a trace, one line a message or packet. A reader that goes away (`| head`) ends it, quietly.
 *
 * @returns Exit status: 1 if the file is no trace, or not whole.
 */
export async function traceCommand({ path, json, relid }: TraceCommandOptions): Promise<number> {
  let trace: Trace;
  try {
    trace = readTrace(readTraceFile(path));
  } catch (error) {
    if (!(error instanceof TraceError)) throw error;
    const message = error.code === "ERR_TRACE_FILE" ? error.message : `${path}: ${error.message}`;
    process.stderr.write(`hyperv-host: ${message}\n`);
    return 1;
  }
  const decoder = new TraceDecoder();
  let text = "";
  for (const record of trace.records) {
    const decoded = decoder.decode(record);
    if (relid !== undefined && decoded.relid !== relid) continue;
    text += `${json ? jsonLine(decoded) : traceLine(decoded)}\n`;
    if (text.length < CHUNK_LENGTH) continue;
    if (!(await writeOut(text))) return 0;
    text = "";
  }
  if (!(await writeOut(text))) return 0;
  if (trace.damage === undefined) return 0;
  const { kind, offset, detail } = trace.damage;
  process.stderr.write(
    `hyperv-host: ${path}: ${kind} at byte ${offset}: ${detail}; everything before it is above\n`,
  );
  return 1;
}

function jsonLine({ relid, ...record }: DecodedRecord): string {
  return JSON.stringify({ channel: relid, ...record });
}
