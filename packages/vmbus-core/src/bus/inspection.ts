import type { VmbusCounters } from "./bus-link.js";
import type { ChannelState } from "./channel-lifecycle.js";
import type { Connection } from "./connection.js";
import type { GpadlState } from "./gpadl.js";

/** What `Vmbus.inspect` tells: plain data. */
export interface VmbusInspection {
  readonly state: Connection["name"];
  /** "5.3"; null while not connected. */
  readonly version: string | null;
  readonly features: number;
  readonly postRetries: number;
  readonly counters: Readonly<VmbusCounters>;
  readonly channels: readonly BusChannelInspection[];
}

/** What `inspect` tells of a channel: plain data. */
export interface BusChannelInspection {
  readonly relid: number;
  readonly index: number;
  readonly classId: string;
  readonly instanceId: string;
  readonly state: ChannelState["name"];
  readonly cpu: number;
  readonly monitorId: number | null;
  readonly gpadls: readonly {
    readonly gpadlId: number;
    readonly pageCount: number;
    readonly state: GpadlState["name"];
  }[];
}
