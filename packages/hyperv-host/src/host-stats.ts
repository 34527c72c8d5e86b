import type { PartitionStats } from "./partition.js";
import type { ControllerStats } from "./storvsp/controller-config.js";

/** A host with its disks as an administrator sees it. */
export interface HostStats extends PartitionStats {
  readonly controllers: readonly ControllerStats[];
}
