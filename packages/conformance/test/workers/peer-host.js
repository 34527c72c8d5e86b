// The host's data plane for the channel suite on virtual processors: each channel is served by the peer that its
// guest names when it opens it.
import { ChannelPeerHandler } from "@hyperv-is/conformance";
import { HostWorker, HypervisorState } from "@hyperv-is/hyperv-host";
import { DoorbellBells, HostCause } from "@hyperv-is/hyperv-host/node/processor";
import { runHostWorker } from "@hyperv-is/platform-node";

/** @import { HostChannelHandler, WorkerRequest } from "@hyperv-is/hyperv-host" */
/** @import { Guid } from "@hyperv-is/vmbus-core/protocol" */
/** @import { HostWorkerContext, HostWorkerData } from "@hyperv-is/platform-node" */

/** @typedef {HostWorkerData & { state: SharedArrayBuffer, classId: Guid }} PeerHostData */

/** Peers, by the first byte of the user data of OPENCHANNEL. */
const peers = /** @type {const} */ (["echo", "increment"]);

/** @implements {HostChannelHandler} */
class Peer extends ChannelPeerHandler {
  opened() {
    // The guest speaks first.
  }

  /** @param {() => void} done */
  release(done) {
    done();
  }
}

await runHostWorker((/** @type {HostWorkerContext<PeerHostData>} */ context) => {
  const { data, memory, timers, starter } = context;
  const state = new HypervisorState(data.state);
  const worker = new HostWorker({
    index: 0,
    state,
    memory,
    bells: new DoorbellBells(state),
    timers,
    reply: (reply) => starter.send(reply),
  });
  worker.serve(
    { classId: data.classId },
    { open: ({ userData }) => new Peer(peers[userData[0] ?? 0] ?? "echo", memory) },
  );
  return {
    drain: () => worker.run(),
    rung(causes) {
      if ((causes & HostCause.eventFlags) !== 0) worker.interrupt();
    },
    message: (message) => worker.receive(/** @type {WorkerRequest} */ (message)),
  };
});
