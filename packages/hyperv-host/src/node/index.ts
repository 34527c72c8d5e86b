export { DiskError, DiskSet, openDiskImage, type OpenDiskImage } from "./disk-set.js";
export {
  HostOptionError,
  hostOptions,
  hostOptionsUsage,
  parseDisk,
  parseHostOptions,
  parseMemorySize,
  type HostOptions,
  type HostOptionValues,
} from "./host-options.js";
export type { HostThreadBody } from "./host-thread-body.js";
export type { LentThreadData } from "./lent-thread.js";
export { NodeHost, hostThreads, type ControlOptions, type NodeHostOptions } from "./node-host.js";
export {
  TraceFile,
  readTraceFile,
  type JoinTraceOptions,
  type TraceFileOptions,
} from "./trace-file.js";
export type { DiskWorkerReply, DiskWorkerRequest } from "./disk-devices.js";
export { CaptureFile, type CaptureFileOptions } from "./capture-file.js";
export {
  NICS_MAX,
  networkOptions,
  networkOptionsUsage,
  parseNetworkOptions,
  parseNic,
  parseSwitch,
  parseTap,
  placeNics,
  type NetworkOptionValues,
  type NicOption,
  type PlacedNic,
} from "./network-options.js";
export { NetworkError, NetworkSet, type AdapterChange } from "./network-set.js";
export { SocketPort } from "./socket-port.js";
export { realTime } from "./real-time.js";
