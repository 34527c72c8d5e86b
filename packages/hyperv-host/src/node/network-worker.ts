// Entry of a host worker that owns the switches of a machine and the network adapters at them.
import { runHostThread } from "./host-thread-body.js";
import { networkDevices } from "./network-devices.js";

await runHostThread(networkDevices);
