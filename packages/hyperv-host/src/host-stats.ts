import type { IntegrationStats } from "./integration/integration-services.js";
import type { NicStats } from "./netvsp/nic-config.js";
import type { PartitionStats } from "./partition.js";
import type { ControllerStats } from "./storvsp/controller-config.js";

/** A host with its disks and network adapters as an administrator sees it. */
export interface HostStats extends PartitionStats {
  readonly controllers: readonly ControllerStats[];
  /** Absent where a host has no integration components. */
  readonly integration?: IntegrationStats;
  /** None where a host has no network. */
  readonly adapters?: readonly NicStats[];
}
