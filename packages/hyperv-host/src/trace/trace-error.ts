import { VmbusError } from "@hyperv-is/vmbus-core";

/** Codes of `TraceError`; stable. */
export type TraceErrorCode =
  /** The file is no trace. */
  | "ERR_TRACE_FORMAT"
  /** The trace is of a version that this reader does not know. */
  | "ERR_TRACE_VERSION"
  /** A list of channels to trace names something that is no channel. */
  | "ERR_TRACE_CHANNELS"
  /** The file cannot be made, read or written. */
  | "ERR_TRACE_FILE";

/** What is wrong with a trace. */
export class TraceError extends VmbusError<TraceErrorCode> {}
