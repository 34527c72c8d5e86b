export type { ComponentFailure, ComponentSpeech, ComponentState } from "./component-session.js";
export {
  Component,
  type ComponentEvents,
  type ComponentResult,
  type ComponentStats,
} from "./component.js";
export {
  HEARTBEAT_INTERVAL_MS,
  HEARTBEAT_MISSED_LIMIT,
  type HeartbeatStats,
  type HeartbeatStatus,
} from "./heartbeat-monitor.js";
export {
  KeyValueExchange,
  type GuestItem,
  type KvpConfig,
  type KvpResult,
  type KvpStats,
} from "./key-value-exchange.js";
export type { ShutdownRequest, ShutdownStats } from "./shutdown-requester.js";
export {
  TIME_SAMPLE_INTERVAL_MS,
  type TimeSourceOptions,
  type TimeSourceStats,
} from "./time-source.js";
export { GuestError, failureOf, type GuestErrorCode } from "./guest-error.js";
export { carryOutRequest, type IntegrationRequest } from "./integration-request.js";
export {
  IntegrationServices,
  type IntegrationConfig,
  type IntegrationStats,
} from "./integration-services.js";
