export { connectedChannels, type ConnectedChannels, type ConnectOptions } from "./loopback.js";
export { VirtualTimers } from "./virtual-timers.js";
