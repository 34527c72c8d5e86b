import { icDriver, type IcDriver } from "@hyperv-is/hv-utils/module";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";
import manifest from "../package.json" with { type: "json" };
import { KvpService, type KvpOptions } from "./kvp-service.js";

/** `hvkvp0`, as a kernel has it in tree; its `service` has the device that a daemon opens. */
export function kvpDriver(options?: KvpOptions): IcDriver<KvpService> {
  return icDriver(
    "hv_kvp",
    manifest.version,
    DeviceClass.kvp,
    (channel, { timers }) => new KvpService(channel, timers, options),
    { held: true },
  );
}
