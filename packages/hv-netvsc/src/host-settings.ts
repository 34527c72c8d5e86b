import { offloadQuery, offloadRevision } from "./attachment-messages.js";
import { NetvscError } from "./errors.js";
import { offloadParameters } from "./offload-choice.js";
import type { AgreedOffloads, AgreedScaling, NetvscParameters } from "./parameters.js";
import {
  emitRssParameters,
  findNvspVersion,
  NdisOffload,
  NdisOffloadParameters,
  Oid,
} from "./protocol/index.js";
import type { RndisConversation } from "./rndis-conversation.js";
import { scalingParameters, type ScalingChoice } from "./scaling.js";

// What the host can be told to do otherwise while an interface is in use.

/**
 * Has the host coalesce received segments, as far as it can, or not.
 *
 * Rejects as `RndisConversation.set` does, and with `ERR_NETVSC_REFUSED` where the host has no coalescing.
 */
export async function switchCoalescing(
  conversation: RndisConversation,
  { version: value, offloads }: NetvscParameters,
  on: boolean,
): Promise<AgreedOffloads> {
  const version = findNvspVersion(value)!;
  const answer = await conversation.query(
    Oid.tcpOffloadHardwareCapabilities,
    offloadQuery(version),
  );
  const host = NdisOffload.parse(answer);
  const can4 = version.receiveCoalescing && host !== undefined && host.rscIpv4 !== 0;
  const can6 = version.receiveCoalescing && host !== undefined && host.rscIpv6 !== 0;
  if (on && !can4 && !can6)
    throw new NetvscError("ERR_NETVSC_REFUSED", "the host does not coalesce received segments");
  const changed = { ...offloads, coalescing4: on && can4, coalescing6: on && can6 };
  const parameters = offloadParameters(changed, offloadRevision(version));
  await conversation.set(Oid.tcpOffloadParameters, NdisOffloadParameters.emit(parameters));
  return changed;
}

/** Has the host spread frames over these channels. Rejects as `RndisConversation.set` does. */
export function spread(
  conversation: RndisConversation,
  scaling: AgreedScaling,
  channels: readonly number[],
  choice: ScalingChoice,
): Promise<void> {
  const information = emitRssParameters(scalingParameters(scaling, channels, choice));
  return conversation.set(Oid.genReceiveScaleParameters, information);
}
