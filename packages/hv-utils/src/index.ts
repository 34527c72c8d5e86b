export {
  icSession,
  icSessionStart,
  type IcRefusal,
  type IcRequest,
  type IcSessionEffect,
  type IcSessionInput,
  type IcSessionState,
  type IcSpeech,
} from "./ic-session.js";
export {
  IcChannel,
  type IcChannelDescription,
  type IcCounters,
  type IcService,
} from "./ic-channel.js";
export { IcComponent, type IcContext, type IcOptions } from "./ic-component.js";
export {
  HeartbeatService,
  heartbeatStart,
  stepHeartbeat,
  type HeartbeatAnswer,
  type HeartbeatContext,
  type HeartbeatState,
} from "./heartbeat.js";
export {
  shutdownDriverVersions,
  ShutdownService,
  stepShutdown,
  type ShutdownContext,
  type ShutdownEffect,
  type ShutdownState,
} from "./shutdown.js";
export {
  stepTimeSync,
  TimeSyncService,
  timeSyncStart,
  type TimeSyncContext,
  type TimeSyncEffect,
  type TimeSyncInput,
  type TimeSyncSettings,
  type TimeSyncState,
} from "./time-sync.js";
