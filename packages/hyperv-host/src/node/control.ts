// Both ends of a machine's control socket. Apart from the host's index: not each machine has one.
export { controlDirectory, controlPath } from "./control-address.js";
export { ControlClient } from "./control-client.js";
export { ControlServer, type MachineDescription } from "./control-server.js";
export { runningMachines } from "./machine-list.js";
