export { AdaptiveSpin, spinLimitUs } from "./adaptive-spin.js";
export { NodeClock } from "./clock.js";
export { allowedCpus, pinThread, placeThreads, type ThreadPin } from "./cpu-affinity.js";
export { CpuLink } from "./cpu-link.js";
export { createDoorbells, Doorbell, DoorbellCause } from "./doorbell.js";
export { PlatformError, type PlatformErrorCode } from "./errors.js";
export { lockFile, type FileLock } from "./file-lock.js";
export { Interruption } from "./interruption.js";
export { PcapngFlag, PcapngWriter, type PcapngInterface, type PcapngOptions } from "./pcapng.js";
export {
  isSocketPath,
  PrivateSocket,
  removeDeadSocket,
  type SocketOccupant,
} from "./private-socket.js";
export { Pump, type Pumped, type PumpKind, type PumpOptions } from "./pump.js";
export {
  attachGuestMemory,
  createGuestMemory,
  MEMORY_UNIT_BYTES,
  SharedGuestMemory,
  type WasmMemory,
} from "./shared-guest-memory.js";
export {
  Tap,
  TapOffload,
  VnetFlag,
  VnetGso,
  VnetHeader,
  type TapOptions,
  type TapQueueDescription,
} from "./tap.js";
export { FixedMemory } from "./fixed-memory.js";
export { IO_NOT_CACHED, IO_UNSUPPORTED, IoRing } from "./io-ring.js";
export {
  GatheredFrame,
  TAP_EMPTY,
  TAP_GONE,
  TapQueue,
  type TapQueueCounters,
} from "./tap-queue.js";
export {
  nativeSockets,
  SOCKET_BROKEN,
  SOCKET_EMPTY,
  SOCKET_ENDED,
  StreamSocket,
} from "./stream-socket.js";
export { NodeTimers } from "./timers.js";
export { runWorker, type WorkerBody, type WorkerContext } from "./worker-body.js";
export {
  startWorker,
  type StartWorkerOptions,
  type WorkerExit,
  type WorkerHandle,
} from "./worker-handle.js";
export { importDriver } from "./driver-file.js";
export { runHostWorker, type HostWorkerContext, type HostWorkerData } from "./host-worker.js";
export {
  connectCpus,
  runVcpu,
  type CpuPeer,
  type Vcpu,
  type VcpuData,
  type VcpuProgram,
} from "./vcpu.js";
