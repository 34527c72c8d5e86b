export { autoItems, type GuestFacts, type GuestFactsSource } from "./auto-items.js";
export { KvpDaemon, type KvpDaemonOptions } from "./daemon.js";
export {
  attachDaemon,
  type KvpDevice,
  type KvpDeviceFile,
  type KvpDeviceReader,
} from "./device.js";
export { KvpError, type KvpErrorCode } from "./errors.js";
export {
  kvpExchange,
  type ExchangeEffect,
  type ExchangeInput,
  type ExchangeState,
  type Posed,
} from "./exchange-state.js";
export { noNetwork, type IpConfigurator } from "./ip-configurator.js";
export { KvpService, kvpVersions, type KvpCounters, type KvpOptions } from "./kvp-service.js";
export { MemoryPools } from "./memory-pools.js";
export { findValue, poolNames, splitValue, type Pools } from "./pools.js";
