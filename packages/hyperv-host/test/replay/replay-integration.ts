import { parseKvpRequest } from "@hyperv-is/hv-kvp/protocol";
import {
  IcHeader,
  IcMessageType,
  ShutdownFlag,
  TimeSync4,
  TimeSyncFlag,
  icVersion,
  parseIcMessage,
  parseShutdown,
  parseTimeSync,
  parseTimeSync4,
  shutdownText,
  TIME_SYNC_V4,
  type IcMessage,
} from "@hyperv-is/hv-utils/protocol";
import type { Timers } from "@hyperv-is/vmbus-core";
import { DeviceClass, type Guid } from "@hyperv-is/vmbus-core/protocol";
import {
  IntegrationServices,
  carryOutRequest,
  type HostService,
  type IntegrationRequest,
  type ServiceMatch,
} from "../../src/index.js";

const componentClasses: ReadonlySet<Guid> = new Set(
  [
    DeviceClass.heartbeat,
    DeviceClass.kvp,
    DeviceClass.shutdown,
    DeviceClass.timeSync,
    DeviceClass.vss,
  ].map(({ classId }) => classId),
);

/** The integration components of a recorded host, and what its administrator asked of them as the trace says it. */
export class ReplayIntegration {
  readonly #services: IntegrationServices;

  constructor(timers: Timers) {
    this.#services = new IntegrationServices({ timers, realTime: () => 0n });
  }

  serve(worker: { serve(match: ServiceMatch, service: HostService): void }): void {
    this.#services.serve(worker);
  }

  /** True for the devices of components. */
  has(classId: Guid): boolean {
    return componentClasses.has(classId);
  }

  /** Has happen what made the host send this packet, if an administrator did. @param payload - of the packet. */
  happen(payload: Uint8Array): void {
    const message = parseIcMessage(payload);
    if (typeof message === "string") throw new Error(`has sent what is no message: ${message}`);
    const request = this.#requestOf(message);
    // What becomes of it the trace tells.
    if (request !== undefined) carryOutRequest(this.#services, request, () => undefined);
  }

  #requestOf({ type, version, body }: IcMessage): IntegrationRequest | undefined {
    switch (type) {
      case IcMessageType.kvp: {
        const request = parseKvpRequest(body, version >= icVersion(5) ? "binary" : "text");
        if (typeof request === "string") throw new Error(`has sent a wrong request: ${request}`);
        return { kind: "kvp", request };
      }
      case IcMessageType.shutdown: {
        const { flags, message } = parseShutdown(body)!;
        const action = (flags & ShutdownFlag.restart) !== 0 ? "restart" : "power-off";
        const force = (flags & ShutdownFlag.force) !== 0;
        return { kind: "shutdown", action, force, message: shutdownText(message) };
      }
      case IcMessageType.timeSync: {
        const told = version < TIME_SYNC_V4 ? parseTimeSync(body) : parseTimeSync4(body);
        return (told!.flags & TimeSyncFlag.sync) === 0 ? undefined : { kind: "time", sync: true };
      }
      default:
        return undefined;
    }
  }
}

/** A packet of a component without what clocks say. */
export function withoutTimes(packet: Uint8Array, headerBytes: number): Uint8Array {
  const message = parseIcMessage(packet.subarray(headerBytes));
  if (typeof message === "string" || message.type !== IcMessageType.timeSync) return packet;
  const timeless = packet.slice();
  const { parentTime, referenceTime } = TimeSync4.fields;
  const body = headerBytes + IcHeader.SIZE;
  for (const { offset, width } of [
    parentTime,
    ...(message.version < TIME_SYNC_V4 ? [] : [referenceTime]),
  ])
    timeless.fill(0, body + offset, body + offset + width);
  return timeless;
}
