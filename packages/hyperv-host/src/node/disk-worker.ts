// Entry of a host worker that owns SCSI controllers and the integration components.
import { diskDevices } from "./disk-devices.js";
import { runHostThread } from "./host-thread-body.js";

await runHostThread(diskDevices);
