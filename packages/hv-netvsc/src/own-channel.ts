import { ownChannelContext, type OwnChannel } from "@hyperv-is/vmbus-core";
import { attachNetvsc, type NetvscOptions } from "./netvsc-control.js";
import type { NetvscInterface } from "./netvsc-interface.js";
import type { NetvscQueueDescription } from "./queue-description.js";
import { NetvscQueueHalf } from "./queue-half.js";

/**
 * Attaches an interface to a channel of your own, without a bus and so with one channel; rejects as `attachNetvsc` does.
 * An MTU change closes the channel and connects it again. What is shared: receive buffer and send buffer, by turns.
 */
export function attachOverChannel(
  own: OwnChannel,
  options?: NetvscOptions,
): Promise<NetvscInterface> {
  const context = ownChannelContext(
    own,
    (cpu, plain, told) => new NetvscQueueHalf(cpu, plain as NetvscQueueDescription, told),
  );
  return attachNetvsc(context, options);
}
