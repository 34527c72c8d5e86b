export { DoorbellBells, HostCause } from "./doorbell-bells.js";
export { DiskError, DiskSet } from "./disk-set.js";
export { NodeHost, type NodeHostOptions, type NodeHostStats } from "./node-host.js";
export {
  TraceFile,
  readTraceFile,
  type JoinTraceOptions,
  type TraceFileOptions,
} from "./trace-file.js";
export type { DiskWorkerReply, DiskWorkerRequest } from "./disk-worker.js";
