// The protocol of key-value pairs, for guest and host alike, and that between a kernel and its daemon: data and
// pure functions.
export * from "./operations.js";
export * from "./value-layout.js";
export * from "./text.js";
export * from "./ip-address.js";
export * from "./ip-settings.js";
export * from "./ip-message.js";
export * from "./exchange.js";
export * from "./device-message.js";
export * from "./pool-record.js";
