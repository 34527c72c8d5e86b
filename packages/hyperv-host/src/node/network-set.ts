import { VmbusError, type Timers } from "@hyperv-is/vmbus-core";
import { DeviceClass, type Guid } from "@hyperv-is/vmbus-core/protocol";
import type { FaultPlan } from "../faults.js";
import type { HostWorker } from "../host-worker.js";
import { NetworkAdapter } from "../netvsp/network-adapter.js";
import type { CaptureStats, NicStats } from "../netvsp/nic-config.js";
import type { CaptureConfig, NetworkConfig } from "../network-config.js";
import type { VlanMode } from "../switch/switch-port.js";
import { VirtualSwitch } from "../switch/virtual-switch.js";
import { CaptureFile } from "./capture-file.js";
import { SocketPort } from "./socket-port.js";
import { TapPort } from "./tap-port.js";

/** A network that could not be made, or a request to it that could not be carried out. */
export class NetworkError extends VmbusError {}

/** What may be changed of an adapter while its guest runs. */
export interface AdapterChange {
  readonly isLinkUp?: boolean;
  readonly allowMacSpoofing?: boolean;
  readonly vlan?: VlanMode;
}

/** True if the network has calls in flight on Node's event loop: the thread of its `NetworkSet` must serve it. */
export function networkNeedsEventLoop({ switches }: NetworkConfig): boolean {
  return switches.some(({ uplinks = [] }) => uplinks.some(({ kind }) => kind === "socket"));
}

/** The switches of a machine with their adapters, uplinks and captures, as one host worker has them. */
export class NetworkSet {
  readonly adapters: ReadonlyMap<Guid, NetworkAdapter>;
  readonly switches: ReadonlyMap<string, VirtualSwitch>;
  readonly #timers: Timers;
  readonly #sockets: SocketPort[] = [];
  readonly #taps: TapPort[] = [];
  readonly #captures = new Map<Guid, CaptureFile>();

  private constructor(
    switches: ReadonlyMap<string, VirtualSwitch>,
    adapters: ReadonlyMap<Guid, NetworkAdapter>,
    timers: Timers,
  ) {
    this.switches = switches;
    this.adapters = adapters;
    this.#timers = timers;
  }

  /**
   * Makes the switches, connects them and their adapters, and begins the captures. Rejects with `NetworkError`
   * (`ERR_NETWORK`, or the code of the socket's, the TAP's or the file's error); nothing is left open then.
   *
   * @param log - Gets a line when an uplink is lost, or back; standard error unless told.
   */
  static async open(
    config: NetworkConfig,
    timers: Timers,
    faults?: FaultPlan,
    log: (line: string) => void = (line) => void process.stderr.write(`${line}\n`),
  ): Promise<NetworkSet> {
    const switches = new Map<string, VirtualSwitch>();
    const adapters = new Map<Guid, NetworkAdapter>();
    const set = new NetworkSet(switches, adapters, timers);
    try {
      for (const { name, uplinks = [] } of config.switches) {
        if (switches.has(name)) throw new RangeError(`there are two switches ${name}`);
        const owner = new VirtualSwitch({ timers, ...(faults && { faults }) });
        switches.set(name, owner);
        for (const uplink of uplinks)
          if (uplink.kind === "tap") set.#taps.push(new TapPort(owner, uplink));
          else set.#sockets.push(await SocketPort.open(owner, uplink, { timers, log }));
      }
      for (const adapter of config.adapters) {
        const owner = switches.get(adapter.switch);
        if (owner === undefined) throw new RangeError(`there is no switch ${adapter.switch}`);
        adapters.set(adapter.instanceId, new NetworkAdapter(adapter, owner, timers));
      }
      for (const capture of config.captures ?? []) set.startCapture(capture);
      return set;
    } catch (error) {
      set.close();
      throw networkError(error);
    }
  }

  /** Files that can be read when there is something to `poll`. */
  get files(): readonly number[] {
    return this.#taps.map(({ fd }) => fd);
  }

  /** Takes frames that have come from the host's network, within a budget. @returns True if there were any. */
  poll(): boolean {
    let hasWorked = false;
    for (const tap of this.#taps) hasWorked = tap.poll() || hasWorked;
    return hasWorked;
  }

  /** Registers the adapters with the worker that has them. */
  serve(worker: HostWorker): void {
    const { classId } = DeviceClass.network;
    for (const [instanceId, adapter] of this.adapters)
      worker.serve({ classId, instanceId }, adapter);
  }

  /** Changes an adapter. Throws `NetworkError`. */
  change(instanceId: Guid, { isLinkUp, allowMacSpoofing, vlan }: AdapterChange): void {
    const { port } = this.#adapter(instanceId);
    try {
      if (vlan !== undefined) port.setVlan(vlan);
    } catch (error) {
      throw networkError(error);
    }
    if (allowMacSpoofing !== undefined) port.allowMacSpoofing = allowMacSpoofing;
    if (isLinkUp !== undefined) port.setLink(isLinkUp);
  }

  /** Captures what goes over an adapter's port; ends a capture that there was. Throws `NetworkError`. */
  startCapture({ instanceId, ...capture }: CaptureConfig): void {
    const { port } = this.#adapter(instanceId);
    this.stopCapture(instanceId);
    const name = `hn${[...this.adapters.keys()].indexOf(instanceId)}`;
    try {
      const file = new CaptureFile(port, this.#timers, { ...capture, name });
      this.#captures.set(instanceId, file);
    } catch (error) {
      throw networkError(error);
    }
  }

  /**
   * Ends the capture of an adapter. Throws `NetworkError` if the file could not be written.
   *
   * @returns What it has; undefined if there was none.
   */
  stopCapture(instanceId: Guid): CaptureStats | undefined {
    const capture = this.#captures.get(instanceId);
    this.#captures.delete(instanceId);
    try {
      capture?.close();
    } catch (error) {
      throw networkError(error);
    }
    return captureStats(capture);
  }

  stats(): NicStats[] {
    return Array.from(this.adapters, ([instanceId, adapter]) => {
      const capture = captureStats(this.#captures.get(instanceId));
      return { ...adapter.stats(), ...(capture && { capture }) };
    });
  }

  /** Closes everything; throws the first error after all was tried. */
  close(): void {
    const errors: unknown[] = [];
    for (const instanceId of [...this.#captures.keys()]) {
      try {
        this.stopCapture(instanceId);
      } catch (error) {
        errors.push(error);
      }
    }
    for (const uplink of [...this.#sockets.splice(0), ...this.#taps.splice(0)]) uplink.close();
    for (const adapter of this.adapters.values()) adapter.close();
    if (errors.length > 0) throw errors[0] as Error;
  }

  #adapter(instanceId: Guid): NetworkAdapter {
    const adapter = this.adapters.get(instanceId);
    if (adapter === undefined)
      throw new NetworkError("ERR_NETWORK", `there is no network adapter ${instanceId}`);
    return adapter;
  }
}

function captureStats(capture: CaptureFile | undefined): CaptureStats | undefined {
  return capture && { path: capture.path, frames: capture.frames };
}

function networkError(cause: unknown): NetworkError {
  if (cause instanceof NetworkError) return cause;
  const { code = "ERR_NETWORK", message } = cause as NodeJS.ErrnoException;
  return new NetworkError(code, message, { cause });
}
