// The protocol of integration components, for guest and host alike: data and pure functions. Key-value pairs and
// backup have their own messages in their own packages.
export * from "./version.js";
export * from "./message.js";
export * from "./negotiation.js";
export * from "./heartbeat.js";
export * from "./shutdown.js";
export * from "./time-sync.js";
export * from "./vss.js";
