import { channelSuite, ChannelPeerHandler, type ChannelSetup } from "@hyperv-is/conformance";
import { runSuite } from "@hyperv-is/conformance/vitest";
import { GuestMemory } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { connectedChannels } from "@hyperv-is/vmbus-core/testing";

const loopback: ChannelSetup = {
  connect: (ringPages, peer, handler) => {
    const scratchAddress = 2 * ringPages * PAGE_SIZE;
    const memory = new GuestMemory(new ArrayBuffer(scratchAddress + 16 * PAGE_SIZE));
    const right = new ChannelPeerHandler(peer, memory);
    const pair = connectedChannels({ left: handler, right, ringPages, memory });
    return Promise.resolve({
      channel: pair.left,
      memory,
      scratchAddress,
      until: (done) => {
        pair.run();
        return done() ? Promise.resolve() : Promise.reject(new Error("both ends sleep"));
      },
      close: () => Promise.resolve(),
    });
  },
};

runSuite("loopback", channelSuite, loopback);
