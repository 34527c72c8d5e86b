import {
  KERNEL_INTERFACE,
  type ControlContext,
  type DriverModule,
  type QueueContext,
  type SystemServices,
} from "@hyperv-is/vmbus-core";
import { DeviceClass, type DeviceClassRow } from "@hyperv-is/vmbus-core/protocol";
import manifest from "../package.json" with { type: "json" };
import { HeartbeatService } from "./heartbeat.js";
import { IcChannel, type IcChannelDescription, type IcService } from "./ic-channel.js";
import { IcComponent, type IcOptions } from "./ic-component.js";
import { ShutdownService } from "./shutdown.js";
import { TimeSyncService } from "./time-sync.js";

/** An integration component as a kernel has it in tree. */
export type IcDriver<Service extends IcService> = DriverModule<IcChannel, IcComponent<Service>>;

/** What a component has of its kernel. */
export interface IcKernelContext extends ControlContext<IcChannel> {
  readonly system: SystemServices;
}

/** Makes the driver of a component. @param version - of the package. @param serve - Makes what is its own. */
export function icDriver<Service extends IcService>(
  name: string,
  version: string,
  { classId, freebsd }: DeviceClassRow,
  serve: (channel: IcChannel, context: IcKernelContext) => Service,
  options: IcOptions = {},
): IcDriver<Service> {
  if (freebsd === undefined) throw new Error(`FreeBSD has no driver ${name}`);
  return {
    name,
    version,
    kernelInterface: KERNEL_INTERFACE,
    deviceName: freebsd.driver,
    probe: (offered) => (offered === classId ? freebsd.description : undefined),
    control: (context) => {
      const { system } = context;
      if (system === undefined)
        return Promise.reject(new Error(`${name} needs a whole system around it`));
      return IcComponent.attach(
        context,
        (channel) => serve(channel, { ...context, system }),
        options,
      );
    },
    queue: (context: QueueContext, description) =>
      new IcChannel(context, description as IcChannelDescription),
  };
}

const { version } = manifest;

/** `hvheartbeat0`. */
export const heartbeat: IcDriver<HeartbeatService> = icDriver(
  "hv_heartbeat",
  version,
  DeviceClass.heartbeat,
  (channel, context) => new HeartbeatService(channel, context),
);

/** `hvshutdown0`. */
export const shutdown: IcDriver<ShutdownService> = icDriver(
  "hv_shutdown",
  version,
  DeviceClass.shutdown,
  (channel, context) => new ShutdownService(channel, context),
);

/** `hvtimesync0`. */
export const timeSync: IcDriver<TimeSyncService> = icDriver(
  "hv_timesync",
  version,
  DeviceClass.timeSync,
  (channel, context) => new TimeSyncService(channel, context),
);

/** What FreeBSD's module `hv_utils` has of them. */
export const drivers: readonly DriverModule<IcChannel, IcComponent>[] = [
  heartbeat,
  shutdown,
  timeSync,
];
