import { DeviceClass, type DeviceClassRow } from "@hyperv-is/vmbus-core/protocol";
import type { HostService, ServiceMatch } from "../host-service.js";
import type { Component } from "./component.js";
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
}

/** What a host's integration components have done; JSON. */
export interface IntegrationStats {
  readonly heartbeat: HeartbeatStats;
  readonly shutdown: ShutdownStats;
  readonly timeSync: TimeSourceStats;
  readonly kvp: KvpStats;
}

/** The integration components of a host: heartbeat, shutdown, time synchronisation, key-value pairs. */
export class IntegrationServices {
  readonly heartbeat: HeartbeatMonitor;
  readonly shutdown: ShutdownRequester;
  readonly timeSync: TimeSource;
  readonly kvp: KeyValueExchange;

  constructor(options: TimeSourceOptions, config: IntegrationConfig = {}) {
    this.heartbeat = new HeartbeatMonitor(options.timers, config.heartbeat);
    this.shutdown = new ShutdownRequester(config.shutdown);
    this.timeSync = new TimeSource(options, config.timeSync);
    this.kvp = new KeyValueExchange(config.kvp);
  }

  /** Registers them with the worker that has their devices. */
  serve(worker: { serve(match: ServiceMatch, service: HostService): void }): void {
    const register = ({ classId }: DeviceClassRow, component: Component): void =>
      worker.serve({ classId }, component);
    register(DeviceClass.heartbeat, this.heartbeat.component);
    register(DeviceClass.shutdown, this.shutdown.component);
    register(DeviceClass.timeSync, this.timeSync.component);
    register(DeviceClass.kvp, this.kvp.component);
  }

  get stats(): IntegrationStats {
    return {
      heartbeat: this.heartbeat.stats,
      shutdown: this.shutdown.stats,
      timeSync: this.timeSync.stats,
      kvp: this.kvp.stats,
    };
  }
}
