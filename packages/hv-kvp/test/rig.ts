import {
  GuestMemory,
  PageAllocator,
  SendResult,
  type Channel,
  type ChannelHandler,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  connectedChannels,
  VirtualTimers,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import { IcChannel } from "@hyperv-is/hv-utils";
import * as ic from "@hyperv-is/hv-utils/protocol";
import { KvpService, type KvpDeviceFile, type KvpOptions } from "../src/index.js";
import { emitRegistration } from "../src/protocol/index.js";

const description = {
  relid: 1,
  subChannelIndex: 0,
  targetVp: 0,
  ringAddress: 0,
  outgoingPages: 4,
  incomingPages: 4,
  signal: { connectionId: 1 },
};

/** The driver on a channel, and the host's end of it in the hands of the test. */
export class Rig implements ChannelHandler {
  readonly timers = new VirtualTimers();
  readonly memory = new GuestMemory(new ArrayBuffer(16 * 4096));
  /** Messages of the guest that were not looked at yet. */
  readonly received: ic.IcMessage[] = [];
  readonly service: KvpService;
  #connected!: ConnectedChannels;
  #versions: ic.IcVersions = { framework: 0, message: 0 };

  constructor(options?: KvpOptions) {
    const channel = new IcChannel(
      {
        memory: this.memory,
        allocator: new PageAllocator(this.memory, 8 * 4096, 8 * 4096),
        timers: this.timers,
        bindChannel: (_, handler) => {
          const { memory } = this;
          this.#connected = connectedChannels({ left: handler, right: this, memory, ringPages: 4 });
          return this.#connected.left;
        },
        unbindChannel: (_, reason) => this.#connected.left.close(reason),
      },
      { channel: description },
    );
    this.service = new KvpService(channel, this.timers, options);
    channel.serve(this.service);
  }

  packet({ incoming }: Channel): void {
    const payload = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    const message = ic.parseIcMessage(payload);
    if (typeof message === "string") throw new Error(`the guest sent no message: ${message}`);
    this.received.push(message);
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

  /** Sends a message to the guest. */
  send(type: ic.IcMessageType, body: Uint8Array): void {
    const payload = ic.emitIcMessage(ic.icRequest(type, body, this.#versions));
    const { right } = this.#connected;
    const packetBytes = 16 + ((payload.byteLength + 7) & ~7);
    if (right.begin(PacketType.inBand, 0, 16, packetBytes, 0, 0) !== SendResult.Ready)
      throw new Error("no room in the ring");
    right.outgoing.putBytes(payload, 0, payload.byteLength);
    right.outgoing.end();
    right.flush();
    this.run();
  }

  /** Lets both ends run until they rest. */
  run(): void {
    this.#connected.run();
  }

  /** Closes the channel, as after a rescind. */
  close(): void {
    this.#connected.left.close("rescinded");
  }

  /** The only message that the guest has sent since the last look; undefined without one. */
  take(): ic.IcMessage | undefined {
    this.run();
    if (this.received.length > 1) throw new Error("more than one message");
    return this.received.shift();
  }

  /** Offers versions; returns what the guest chose, undefined while it is silent. */
  negotiate(...majors: number[]): number | undefined {
    const messages = majors.map((major) => ic.icVersion(major));
    this.send(
      ic.IcMessageType.negotiate,
      ic.emitIcOffer({ frameworks: [ic.icVersion(1), ic.icVersion(3)], messages }),
    );
    return this.chosen();
  }

  /** What the guest has chosen by now. */
  chosen(): number | undefined {
    const choice = this.take();
    if (choice === undefined) return undefined;
    const versions = ic.parseIcChoice(choice.body);
    if (typeof versions !== "object") return 0;
    this.#versions = versions;
    return versions.message >>> 16;
  }

  /** Sends a request. */
  request(body: Uint8Array): void {
    this.send(ic.IcMessageType.kvp, body);
  }

  /** Opens the device as a stock daemon does, with an inbox of the kernel's messages. */
  openDaemon(operation?: number): TestDaemon {
    const inbox: Uint8Array[] = [];
    const daemon = { inbox, isGone: false } as TestDaemon;
    const file = this.service.device.open({
      message: (message) => void inbox.push(message),
      gone: () => (daemon.isGone = true),
    });
    if (typeof file === "string") throw new Error(file);
    daemon.file = file;
    const { dialect } = this.service.device;
    file.write(emitRegistration(dialect, operation ?? dialect.registerOperation));
    if (dialect.answersRegistration) inbox.shift();
    return daemon;
  }
}

/** A daemon in the hands of a test. */
export interface TestDaemon {
  file: KvpDeviceFile;
  readonly inbox: Uint8Array[];
  isGone: boolean;
}
