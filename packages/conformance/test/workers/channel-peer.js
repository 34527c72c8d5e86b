// The far end of the channel compliance suite, on a thread of its own.
import { ChannelPeerHandler } from "@hyperv-is/conformance";
import { Doorbell, runHostWorker } from "@hyperv-is/platform-node";
import {
  Channel,
  ChannelDispatcher,
  IncomingRing,
  OutgoingRing,
  RingArea,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

/** @import { ChannelPeer } from "@hyperv-is/conformance" */
/** @import { HostWorkerContext } from "@hyperv-is/platform-node" */

/**
 * @typedef {object} FarEnd
 * @property {WebAssembly.Memory} memory which begins with the ring to this end, then the ring from it
 * @property {number} ringPages pages of each ring
 * @property {ChannelPeer} peer
 * @property {number} signalCause of the doorbells, for a signal of the channel
 * @property {Int32Array} nearBell
 */

/** Flag of the only channel. */
const FLAG = 1;

await runHostWorker((/** @type {HostWorkerContext<FarEnd>} */ { data, memory }) => {
  const { ringPages, peer, signalCause } = data;
  const nearBell = new Doorbell(data.nearBell, 0);
  const dispatcher = new ChannelDispatcher();
  const channel = new Channel(
    new IncomingRing(RingArea.at(memory, 0, ringPages)),
    new OutgoingRing(RingArea.at(memory, ringPages * PAGE_SIZE, ringPages)),
    { signal: () => nearBell.ring(signalCause) },
    new ChannelPeerHandler(peer, memory),
  );
  dispatcher.bind(FLAG, channel);
  return {
    rung(causes) {
      if ((causes & signalCause) === 0) return;
      channel.interrupt();
      dispatcher.schedule(channel);
    },
    drain: () => dispatcher.run(),
  };
});
