// The network protocol, for the guest driver and the host alike: data and pure functions.
export * from "./versions.js";
export * from "./limits.js";
export * from "./nvsp.js";
export * from "./nvsp-messages.js";
export * from "./rndis.js";
export * from "./rndis-control.js";
export * from "./rndis-packet.js";
export * from "./frame-info.js";
export * from "./oids.js";
export * from "./ndis-object.js";
export * from "./ndis-offload.js";
export * from "./ndis-rss.js";
export * from "./ndis-link.js";
export * from "./config-parameter.js";
export * from "./toeplitz.js";
export * from "./virtio-net.js";
export { get32, put32 } from "./bytes.js";
