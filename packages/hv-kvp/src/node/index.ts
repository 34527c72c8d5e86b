export { serveDaemon } from "./device-client.js";
export { serveDevice, type ServedDevice } from "./device-server.js";
export { FreebsdNetwork, type FreebsdNetworkOptions } from "./freebsd-network.js";
export { systemFacts } from "./guest-facts.js";
export { LinuxNetwork, type LinuxNetworkOptions } from "./linux-network.js";
export { dialectOf, poolDirectory } from "./locations.js";
export { PoolFiles } from "./pool-files.js";
export { watchPools, type PoolChange } from "./pool-watch.js";
export { type RunProgram } from "./system-files.js";
