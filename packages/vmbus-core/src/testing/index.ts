export { connectedChannels, type ConnectedChannels, type ConnectOptions } from "./loopback.js";
