import {
  localQueue,
  SendResult,
  type Channel,
  type ChannelHandler,
  type QueueContext,
} from "@hyperv-is/vmbus-core";
import { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  connectedChannels,
  VirtualTimers,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import { IcChannel, type IcContext } from "../src/index.js";
import * as ic from "../src/protocol/index.js";

const RING_PAGES = 4;
const PAGES = 32;

/** A CPU, a bus with one device, and the host's end of its channel in the hands of the test. */
export class Rig implements ChannelHandler {
  readonly timers = new VirtualTimers();
  readonly memory = new GuestMemory(new ArrayBuffer(PAGES * PAGE_SIZE));
  readonly log: string[] = [];
  /** What the device was asked for, in order. */
  readonly calls: string[] = [];
  /** Messages of the guest, and the transaction ids of their packets. */
  readonly received: ic.IcMessage[] = [];
  readonly ids: (readonly [low: number, high: number])[] = [];
  /** Set to let opening fail. */
  openError: Error | undefined;
  /** Set to leave the guest's packets in the ring. */
  isDeaf = false;
  rescind: () => void = () => undefined;
  connected: ConnectedChannels | undefined;
  readonly queueContext: QueueContext = {
    memory: this.memory,
    allocator: new PageAllocator(
      this.memory,
      2 * RING_PAGES * PAGE_SIZE,
      (PAGES - 2 * RING_PAGES) * PAGE_SIZE,
    ),
    timers: this.timers,
    bindChannel: (_, handler) => {
      this.calls.push("bind");
      this.connected = connectedChannels({
        left: handler,
        right: this,
        memory: this.memory,
        ringPages: RING_PAGES,
      });
      return this.connected.left;
    },
    unbindChannel: (_, reason = "closed") => {
      this.calls.push(`unbind ${reason}`);
      this.connected!.left.close(reason);
    },
  };
  readonly context: IcContext = {
    startQueue: (cpu, description) => {
      this.calls.push(`start on ${cpu}`);
      const half = new IcChannel(this.queueContext, structuredClone(description) as never);
      return Promise.resolve(localQueue(cpu, half));
    },
    device: {
      rescinded: new Promise((resolve) => (this.rescind = resolve)),
      prepareChannel: ({ outgoingPages, incomingPages, cpu }) => {
        this.calls.push(`prepare ${outgoingPages}+${incomingPages} on ${cpu}`);
        return Promise.resolve({
          relid: 1,
          subChannelIndex: 0,
          targetVp: cpu,
          ringAddress: 0,
          outgoingPages,
          incomingPages,
          signal: { connectionId: 1 },
        });
      },
      openChannel: () => {
        this.calls.push("open");
        return this.openError === undefined ? Promise.resolve() : Promise.reject(this.openError);
      },
      closeChannel: () => {
        this.calls.push("close");
        return Promise.resolve();
      },
    },
  };

  packet(channel: Channel): void {
    const { incoming } = channel;
    const message = ic.parseIcMessage(
      incoming.copyOut(incoming.headerBytes, incoming.payloadBytes),
    );
    if (incoming.type !== PacketType.inBand || incoming.flags !== 0 || typeof message === "string")
      throw new Error(`the guest sent no message: ${JSON.stringify(message)}`);
    this.received.push(message);
    this.ids.push([incoming.idLow, incoming.idHigh]);
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(): void {
    throw new Error("this host does not wait for room");
  }

  closed(): void {
    // The test sees it at the guest's end.
  }

  /** Puts a packet into the guest's ring. @returns False if there is no room. */
  put(payload: Uint8Array, idLow = 0, type: number = PacketType.inBand): boolean {
    const host = this.connected!.right;
    const packetBytes = 16 + ((payload.byteLength + 7) & ~7);
    if (host.begin(type, 0, 16, packetBytes, idLow, 0) !== SendResult.Ready) return false;
    host.outgoing.putBytes(payload, 0, payload.byteLength);
    host.outgoing.end();
    host.flush();
    return true;
  }

  /** Lets both ends run until they rest. */
  run(): void {
    this.connected!.run();
  }

  /** Sends a packet and returns what the guest has said by the time that both rest. */
  ask(payload: Uint8Array): ic.IcMessage[] {
    const before = this.received.length;
    this.put(payload);
    this.run();
    return this.received.slice(before);
  }

  /** Agrees on versions: framework 3.0, and the best message version of these that the guest has. */
  negotiate(messages: readonly ic.IcVersion[]): ic.IcVersions {
    const body = ic.emitIcOffer({ frameworks: [ic.icVersion(1), ic.icVersion(3)], messages });
    const nothing = { framework: 0, message: 0 };
    const [answer] = this.ask(
      ic.emitIcMessage(ic.icRequest(ic.IcMessageType.negotiate, body, nothing)),
    );
    const choice = answer && ic.parseIcChoice(answer.body);
    if (typeof choice !== "object") throw new Error(`no versions: ${JSON.stringify(answer)}`);
    return choice;
  }
}
