import type { Clock } from "@hyperv-is/vmbus-core";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { FieldRule } from "../field-rules.js";
import type { HostStats } from "../host-stats.js";
import type { IntegrationRequest } from "../integration/index.js";
import type { CaptureStats } from "../netvsp/nic-config.js";
import type { CaptureConfig } from "../network-config.js";
import type { VmbusServer } from "../vmbus/server.js";

/** What a machine lets the clients of its control socket see and do. */
export interface ControlledMachine {
  readonly name: string;
  /** What it runs in, with its version. */
  readonly program: string;
  readonly processId: number;
  readonly processorCount: number;
  readonly memoryBytes: number;
  readonly clock: Clock;
  /** When the machine was started, on its clock. */
  readonly startMs: number;
  readonly server: VmbusServer;
  stats(): HostStats | Promise<HostStats>;
  /** Captures of its network adapters; absent where there cannot be any. */
  readonly captures?: ControlledCaptures;
  /** Asks the guest's integration components; resolves with what they found, rejects with `GuestError`. */
  request(request: IntegrationRequest): Promise<unknown>;
}

/** What captures the frames of network adapters. Rejects with what the file's error is. */
export interface ControlledCaptures {
  startCapture(capture: CaptureConfig): Promise<void>;
  stopCapture(instanceId: Guid): Promise<CaptureStats | undefined>;
}

/** A method of the control socket: what it takes, what it returns, what it does. */
export interface ControlMethod<Params extends object, Result> {
  /** What each parameter must be. */
  readonly params: { readonly [Name in keyof Params]-?: FieldRule };
  /** Throws `ControlError` if it cannot. */
  run(machine: ControlledMachine, params: Params): Result | Promise<Result>;
}

/** Defines a method. */
export function method<Params extends object, Result>(
  definition: ControlMethod<Params, Result>,
): ControlMethod<Params, Result> {
  return definition;
}
