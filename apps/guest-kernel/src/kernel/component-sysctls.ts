import { HeartbeatService, TimeSyncService, type IcComponent } from "@hyperv-is/hv-utils";
import type { IcVersions } from "@hyperv-is/hv-utils/protocol";
import { formatVersion } from "@hyperv-is/vmbus-core/protocol";
import type { SysctlTree } from "./sysctl.js";

const NS_PER_US = 1000n;

/** Adds what there is to know about an integration component, below `prefix`: FreeBSD's names for the versions; the rest is ours. */
export function addComponentSysctls(
  sysctl: SysctlTree,
  prefix: string,
  component: IcComponent,
): void {
  const { counters, service } = component;
  const show = (name: string, description: string, read: () => string | number): void =>
    sysctl.show(`${prefix}.${name}`, description, read);
  show("fw_version", "framework version", () => versionTexts(component.versions).framework);
  show("msg_version", "message version", () => versionTexts(component.versions).message);
  show("requests", "# of requests of the host", () => counters.requests);
  show("refused", "# of requests refused", () => counters.refused);
  if (service instanceof HeartbeatService)
    show("beats", "# of heartbeats answered", () => service.state.beats);
  if (!(service instanceof TimeSyncService)) return;
  show("syncs", "# of requests to set the clock", () => service.state.syncs);
  show("samples", "# of samples of the host's clock", () => service.state.samples);
  show("steps", "# of times the clock was set", () => service.state.steps);
  show("offset_us", "how far the clock was ahead of the host's when last told", () =>
    Number((service.state.offsetNs ?? 0n) / NS_PER_US),
  );
}

/** State and counters, as plain JSON. */
export function inspectComponent({ versions, counters }: IcComponent): Record<string, unknown> {
  return { ...versionTexts(versions), ...counters };
}

function versionTexts(versions: IcVersions | undefined): { framework: string; message: string } {
  return {
    framework: formatVersion(versions?.framework ?? 0),
    message: formatVersion(versions?.message ?? 0),
  };
}
