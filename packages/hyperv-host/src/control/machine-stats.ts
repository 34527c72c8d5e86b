import type { ChannelCounters } from "@hyperv-is/vmbus-core";
import { deviceClassOf, type Guid } from "@hyperv-is/vmbus-core/protocol";
import type { FaultStats } from "../faults.js";
import type { HostStats } from "../host-stats.js";
import type { IntegrationStats } from "../integration/integration-services.js";
import type { NicStats } from "../netvsp/nic-config.js";
import type { ControllerStats } from "../storvsp/controller-config.js";
import type { BusState } from "../vmbus/bus.js";
import type { ChannelState } from "../vmbus/channel.js";

/** A channel of a machine. While it is open, with the counters of the host's end since it was opened. */
export interface MachineChannel extends Partial<Readonly<ChannelCounters>> {
  /** Null while the guest does not know the channel. */
  readonly relid: number | null;
  /** Name of the device's class. */
  readonly device: string;
  readonly classId: Guid;
  readonly instanceId: Guid;
  readonly subChannelIndex: number;
  readonly state: ChannelState;
  /** Processor of its interrupts; null unless it is open. */
  readonly targetVp: number | null;
  /** Index of the host worker that has it; null unless it is open. */
  readonly worker: number | null;
}

/** The counters of a machine; JSON. */
export interface MachineStats {
  readonly name: string;
  /** Since the machine was started. */
  readonly uptimeMs: number;
  readonly bus: {
    readonly state: BusState;
    /** Negotiated protocol version such as "5.3"; null while no guest is connected. */
    readonly version: string | null;
    readonly messagesIn: number;
    readonly messagesOut: number;
    /** Messages that wait for the guest to empty a slot. */
    readonly backlog: number;
  };
  readonly channels: readonly MachineChannel[];
  readonly controllers: readonly ControllerStats[];
  readonly adapters: readonly NicStats[];
  /** Null where a host has no integration components. */
  readonly integration: IntegrationStats | null;
  /** In the order of the fault plan. */
  readonly faults: readonly FaultStats[];
  readonly violations: {
    readonly total: number;
    /** How many there were of each rule. */
    readonly rules: Readonly<Record<string, number>>;
  };
}

/** The counters of a host as a client of its machine sees them. */
export function machineStats(name: string, uptimeMs: number, host: HostStats): MachineStats {
  const { state, version = null, messagesIn, messagesOut, backlog, controllers, faults } = host;
  const { adapters = [] } = host;
  return {
    name,
    uptimeMs,
    bus: { state, version, messagesIn, messagesOut, backlog },
    channels: host.channels.map((channel) => {
      const { classId, relid = null, targetVp = null } = channel;
      const opened = host.workers.map((channels) => channels.find((open) => open.relid === relid));
      const worker = opened.findIndex((open) => open !== undefined);
      return {
        ...channel,
        ...opened[worker],
        relid,
        targetVp,
        device: deviceClassOf(classId)?.name ?? "unknown",
        worker: worker < 0 ? null : worker,
      };
    }),
    controllers,
    adapters,
    integration: host.integration ?? null,
    faults,
    violations: {
      total: Object.values(host.violations).reduce((sum, count) => sum + count, 0),
      rules: host.violations,
    },
  };
}
