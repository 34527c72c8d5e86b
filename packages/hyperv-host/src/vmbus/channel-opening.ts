import {
  CONNECTION_ID_MASK,
  EventFlagsPage,
  PAGE_SIZE,
  RING_MIN_PAGES,
  VMBUS_SINT,
  VP_INTERRUPTS_DISABLED,
  versionHas,
} from "@hyperv-is/vmbus-core/protocol";
import type { OpenRequest, ServerChannel } from "./channel.js";
import { receiveHalfOf, type ConnectionInfo } from "./connection.js";
import type { Gpadl } from "./gpadl.js";
import type { ChannelOpening, GuestInterrupt } from "./worker-link.js";

/** What an opening is checked against. */
export interface OpeningContext {
  readonly connection: ConnectionInfo;
  readonly vpCount: number;
  /** The GPADL that the request names, if the channel has it. */
  readonly ringGpadl: Gpadl | undefined;
  /** True if signals on this connection mean another channel. */
  isConnectionTaken(connectionId: number): boolean;
}

/** Outcome of `prepareOpening`. */
export type OpeningOutcome =
  | {
      readonly kind: "ok";
      readonly opening: ChannelOpening;
      /** A connection that the guest chose for its signals, besides that of the offer. */
      readonly ownConnectionId: number | undefined;
    }
  | { readonly kind: "fault"; readonly rule: string; readonly detail: string };

/** Checks a request to open a channel that has a relid, and makes of it what the worker needs. */
export function prepareOpening(
  channel: ServerChannel,
  relid: number,
  request: OpenRequest,
  context: OpeningContext,
): OpeningOutcome {
  const { connection } = context;
  const fault = (rule: string, detail: string): OpeningOutcome => ({ kind: "fault", rule, detail });

  const gpadl = context.ringGpadl;
  if (gpadl?.state !== "accepted")
    return fault("open-channel-gpadl", `GPADL 0x${request.ringGpadlId.toString(16)} is not there`);
  const [range] = gpadl.ranges;
  if (range === undefined || gpadl.ranges.length !== 1)
    return fault("open-channel-gpadl", `rings are one range, not ${gpadl.ranges.length}`);
  if (range.byteOffset !== 0 || range.byteCount % PAGE_SIZE !== 0)
    return fault("open-channel-gpadl", "rings are whole pages");
  const split = request.downstreamPageOffset;
  const pages = range.pfns.length;
  if (split < RING_MIN_PAGES || pages - split < RING_MIN_PAGES)
    return fault("open-channel-page-offset", `${pages} pages cannot be split at ${split}`);

  const ownFlag = request.signal?.eventFlag;
  if (ownFlag !== undefined && (ownFlag === 0 || ownFlag >= EventFlagsPage.flagsPerArea))
    return fault("open-channel-event-flag", `event flag ${ownFlag} means no channel`);
  const chosen = request.signal && request.signal.connectionId & CONNECTION_ID_MASK;
  const ownConnectionId =
    chosen === (channel.connectionId & CONNECTION_ID_MASK) ? undefined : chosen;
  if (ownConnectionId !== undefined && context.isConnectionTaken(ownConnectionId))
    return fault(
      "open-channel-connection",
      `connection 0x${ownConnectionId.toString(16)} is in use`,
    );

  let interrupt: GuestInterrupt | undefined;
  if (request.targetVp !== VP_INTERRUPTS_DISABLED && request.reserved === undefined) {
    if (versionHas(connection.version, "channelTargetVp")) {
      if (request.targetVp >= context.vpCount)
        return fault("open-channel-target-vp", `there is no processor ${request.targetVp}`);
      interrupt = { vp: request.targetVp, sint: VMBUS_SINT, flag: ownFlag ?? relid };
    } else {
      const receiveHalf = receiveHalfOf(connection);
      if (receiveHalf !== undefined)
        interrupt = { vp: 0, sint: VMBUS_SINT, flag: relid, receiveHalf };
    }
  }
  return {
    kind: "ok",
    ownConnectionId,
    opening: {
      key: channel.key,
      relid,
      classId: channel.offer.classId,
      instanceId: channel.offer.instanceId,
      subChannelIndex: channel.subChannelIndex,
      version: connection.version,
      features: connection.features,
      ringGpadlId: request.ringGpadlId,
      ringPages: range.pfns.map((pfn) => pfn * PAGE_SIZE),
      downstreamPageOffset: split,
      interrupt,
      userData: request.userData,
    },
  };
}
