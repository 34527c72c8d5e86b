import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { readTraceFile } from "@hyperv-is/hyperv-host/node";
import { readTrace, type Trace } from "@hyperv-is/hyperv-host/trace";
import type { RecordedHost } from "./trace-replay.js";

/** Where a recorded trace comes from, and what it was recorded on. */
export interface Provenance {
  /** The guest and its version, such as "Linux 6.1.0-50-686, Debian 12". */
  readonly guest: string;
  readonly version: string;
  /** How it was recorded: commands, and what the guest was made to do. */
  readonly recorded: readonly string[];
  /** Of the recording, year-month-day. */
  readonly date: string;
  readonly host: RecordedHost;
  /** Rules that the guest breaks, with the reason why it does. */
  readonly violations: Readonly<Record<string, { readonly count: number; readonly why: string }>>;
}

/** A recorded trace. */
export interface TraceFixture {
  readonly name: string;
  readonly provenance: Provenance;
  readonly trace: Trace;
}

const directory = fileURLToPath(new URL("../traces/", import.meta.url));
const SUFFIX = ".trace.gz";

/** All recorded traces: each `NAME.trace.gz` in `test/traces`, with `NAME.json` beside it. */
export function traceFixtures(): TraceFixture[] {
  return readdirSync(directory)
    .filter((file) => file.endsWith(SUFFIX))
    .sort()
    .map((file) => {
      const name = file.slice(0, -SUFFIX.length);
      const text = readFileSync(`${directory}${name}.json`, "utf8");
      return {
        name,
        provenance: JSON.parse(text) as Provenance,
        trace: readTrace(readTraceFile(`${directory}${file}`)),
      };
    });
}
