import { IcMessageType, icVersion } from "@hyperv-is/hv-utils/protocol";
import { DeviceClass, type DeviceClassRow } from "@hyperv-is/vmbus-core/protocol";
import type { HostService, ServiceMatch } from "../host-service.js";
import { Component, type ComponentStats } from "./component.js";
import { HeartbeatMonitor, type HeartbeatStats } from "./heartbeat-monitor.js";
import { KeyValueExchange, type KvpConfig, type KvpStats } from "./key-value-exchange.js";
import { ShutdownRequester, type ShutdownStats } from "./shutdown-requester.js";
import { TimeSource, type TimeSourceOptions, type TimeSourceStats } from "./time-source.js";
import type { ComponentSpeech } from "./component-session.js";

/** Which versions the host offers, where it is not to offer all. */
export interface IntegrationConfig {
  readonly heartbeat?: Partial<ComponentSpeech>;
  readonly shutdown?: Partial<ComponentSpeech>;
  readonly timeSync?: Partial<ComponentSpeech>;
  readonly kvp?: KvpConfig;
  readonly vss?: Partial<ComponentSpeech>;
}

/** What a host's integration components have done; JSON. */
export interface IntegrationStats {
  readonly heartbeat: HeartbeatStats;
  readonly shutdown: ShutdownStats;
  readonly timeSync: TimeSourceStats;
  readonly kvp: KvpStats;
  readonly vss: ComponentStats;
}

/** What Windows Server 2016 offers for backups, in its order. */
const vssOffer = {
  frameworks: [icVersion(1), icVersion(3)],
  messages: [icVersion(4), icVersion(5), icVersion(6), icVersion(7)],
};

/**
 * The integration components of a host: heartbeat, shutdown, time synchronisation, key-value pairs, and VSS, which
 * agrees on versions and then asks for nothing, since the host takes no backups.
 */
export class IntegrationServices {
  readonly heartbeat: HeartbeatMonitor;
  readonly shutdown: ShutdownRequester;
  readonly timeSync: TimeSource;
  readonly kvp: KeyValueExchange;
  readonly vss: Component;

  constructor(options: TimeSourceOptions, config: IntegrationConfig = {}) {
    this.heartbeat = new HeartbeatMonitor(options.timers, config.heartbeat);
    this.shutdown = new ShutdownRequester(config.shutdown);
    this.timeSync = new TimeSource(options, config.timeSync);
    this.kvp = new KeyValueExchange(config.kvp);
    this.vss = new Component({ type: IcMessageType.vss, ...vssOffer, ...config.vss });
  }

  /** Registers them with the worker that has their devices. */
  serve(worker: { serve(match: ServiceMatch, service: HostService): void }): void {
    const register = ({ classId }: DeviceClassRow, component: Component): void =>
      worker.serve({ classId }, component);
    register(DeviceClass.heartbeat, this.heartbeat.component);
    register(DeviceClass.shutdown, this.shutdown.component);
    register(DeviceClass.timeSync, this.timeSync.component);
    register(DeviceClass.kvp, this.kvp.component);
    register(DeviceClass.vss, this.vss);
  }

  get stats(): IntegrationStats {
    return {
      heartbeat: this.heartbeat.stats,
      shutdown: this.shutdown.stats,
      timeSync: this.timeSync.stats,
      kvp: this.kvp.stats,
      vss: this.vss.stats,
    };
  }
}
