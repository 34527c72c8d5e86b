// The host's end of the echo device: checks each packet, sends it back with every bit inverted.
import {
  Channel,
  ChannelDispatcher,
  IncomingRing,
  OutgoingRing,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PacketType, PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { runHostWorker } from "@hyperv-is/platform-node";
import { CAUSE_SIGNAL, GuestSignal, hostFlags } from "./crossover.js";
import { checkPacket } from "./payload.js";

/** @import { HostWorkerContext } from "@hyperv-is/platform-node" */
/** @import { EchoDescription } from "./echo-driver.js" */

/**
 * @typedef {object} EchoHostData
 * @property {WebAssembly.Memory} memory
 * @property {Int32Array} words
 * @property {EchoDescription} echo
 * @property {boolean} greets whether it sends a packet before any of the guest's
 * @property {number} throwAt packet at which this worker throws
 * @property {number} hangAt packet at which it never comes back
 * @property {number} corruptAt packet behind which it breaks the ring protocol
 */

await runHostWorker((/** @type {HostWorkerContext<EchoHostData>} */ { data, memory, starter }) => {
  const { words, echo } = data;
  const { relid, ringAddress, outgoingPages, incomingPages } = echo.channel;
  const flags = hostFlags(words);
  const dispatcher = new ChannelDispatcher();
  /** Answers that found no room: id and payload. @type {{ id: number, words: Int32Array }[]} */
  const backlog = [];
  const scratch = new Int32Array(2048);

  /** @param {Channel} channel */
  const answer = (channel) => {
    for (let next = backlog[0]; next !== undefined; next = backlog[0]) {
      const bytes = 16 + next.words.length * 4;
      const result = channel.begin(PacketType.completion, 0, 16, bytes, next.id, 0);
      if (result === SendResult.Full && channel.waitForSpace(bytes)) continue;
      if (result !== SendResult.Ready) break;
      channel.outgoing.putWords(next.words, 0, next.words.length);
      channel.outgoing.end();
      backlog.shift();
    }
    channel.flush();
  };

  const signal = new GuestSignal(words, memory, relid);
  const channel = new Channel(
    new IncomingRing(RingArea.at(memory, ringAddress, outgoingPages)),
    new OutgoingRing(RingArea.at(memory, ringAddress + outgoingPages * PAGE_SIZE, incomingPages)),
    signal,
    {
      packet({ incoming }) {
        const id = incoming.idLow;
        if (id === data.throwAt) throw new Error(`told to throw at packet ${id}`);
        if (id === data.hangAt) {
          starter.send("hanging");
          for (;;);
        }
        if (id === data.corruptAt) {
          // An impossible write index, which this end does not overwrite any more.
          memory.words[(ringAddress + outgoingPages * PAGE_SIZE) >>> 2] = 12345;
          channel.close();
          signal.signal();
          return;
        }
        const count = checkPacket(echo, channel, scratch, 0);
        backlog.push({ id, words: scratch.slice(0, count).map((word) => ~word) });
      },
      batchEnd: answer,
      spaceArrived: answer,
      closed: (_, reason) => starter.send({ closed: reason }),
    },
  );
  dispatcher.bind(relid, channel);
  if (data.greets) {
    channel.begin(PacketType.inBand, 0, 16, 16, 0, 0);
    channel.outgoing.end();
    channel.flush();
    starter.send("greeted");
  }
  return {
    rung(causes) {
      if ((causes & CAUSE_SIGNAL) !== 0) dispatcher.interrupt(flags);
    },
    drain: () => dispatcher.run(),
  };
});
