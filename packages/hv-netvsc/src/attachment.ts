import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import type {
  AttachmentEffect,
  AttachmentInput,
  AttachmentOptions,
  AttachmentState,
} from "./attachment-io.js";
import {
  configurationPackets,
  offloadQuery,
  offloadRevision,
  parseReceiveBuffer,
  scalingQuery,
} from "./attachment-messages.js";
import { ADDRESS_BYTES, Agreement } from "./agreement.js";
import { NetvscError } from "./errors.js";
import { chooseOffloads, NO_OFFLOADS, offloadParameters } from "./offload-choice.js";
import type { SharedBuffer } from "./parameters.js";
import {
  emitRssParameters,
  findNvspVersion,
  get32,
  LINK_SPEED_UNIT,
  MediaConnectStatus,
  NdisOffload,
  NdisOffloadParameters,
  NdisRssCapabilities,
  NvspHeader,
  NvspInit,
  NvspInitComplete,
  NvspSendReceiveBuffer,
  NvspSendReceiveBufferComplete,
  NvspSendSendBuffer,
  NvspSendSendBufferComplete,
  NvspStatus,
  NvspSubChannelComplete,
  NvspSubChannelRequest,
  nvspVersions,
  Oid,
  PacketFilter,
  RECEIVE_BUFFER_BYTES,
  RECEIVE_BUFFER_ID,
  RndisInitializeComplete,
  RndisStatus,
  SEND_BUFFER_BYTES,
  SEND_BUFFER_ID,
  SubChannelOperation,
  type NvspVersion,
} from "./protocol/index.js";
import type { RndisAnswer, RndisQuestion } from "./rndis-conversation.js";
import { chooseScaling, scalingParameters } from "./scaling.js";

const DEFAULT_STEP_TIMEOUT_MS = 60_000;
const DEFAULT_SETTLE_MS = 200;
const DEFAULT_MTU = 1500;
const MAX_TRANSFER_BYTES = 2048; // as FreeBSD says
/** Where memory is short, buffers are halved down to this. */
const LEAST_BUFFER_BYTES = 1 << 20;

/**
 * The attach of an interface, in FreeBSD's order: versions, buffers, RNDIS, offloads, sub-channels, scaling, and
 * what the adapter is. A function of state, input and time: it owns no channel, promise or timer. What goes wrong
 * at a step that cannot be done without ends it in `failed`, once; the others leave out what they were for.
 */
export class Attachment {
  readonly #options: AttachmentOptions;
  readonly #versions: readonly NvspVersion[];
  readonly #known: Agreement;
  #state: AttachmentState = "idle";
  #deadline = Infinity;
  #proposed = 0;
  /** Memory that is shared, but of which the host has not agreed to anything yet. */
  #memory: SharedBuffer | undefined;
  /** Bytes that are being shared. */
  #wantedBytes = 0;

  constructor(options: AttachmentOptions = {}) {
    this.#options = options;
    this.#versions =
      options.versions?.map((value) => {
        const version = findNvspVersion(value);
        if (version === undefined) throw new RangeError(`no such version: 0x${value.toString(16)}`);
        return version;
      }) ?? nvspVersions;
    if (this.#versions.length === 0) throw new RangeError("no version to propose");
    for (const bytes of [options.receiveBufferBytes ?? PAGE_SIZE, options.sendBufferBytes ?? 0])
      if (bytes % PAGE_SIZE !== 0 || bytes < 0) throw new RangeError("a buffer is whole pages");
    this.#known = new Agreement(options.mtu ?? DEFAULT_MTU);
  }

  get state(): AttachmentState {
    return this.#state;
  }

  /** When the next `tick` is wanted; infinite while nothing is awaited. */
  get deadline(): number {
    return this.#deadline;
  }

  /** Takes one input at time `now` and returns what is to be done about it, in order. */
  step(input: AttachmentInput, now: number): readonly AttachmentEffect[] {
    if (this.#state === "ready" || this.#state === "failed") return [];
    switch (input.kind) {
      case "rescinded":
        return this.#fail(new NetvscError("ERR_RESCINDED", "the host took the adapter away"));
      case "closed":
        return this.#fail(new NetvscError("ERR_CLOSED", "the channel closed"));
      case "opened":
        if (this.#state !== "idle") throw new Error("the channel is open already");
        return this.#propose(now);
      case "tick":
        if (now < this.#deadline) return [];
        if (this.#state === "settle") return this.#query("address", Oid.ethPermanentAddress);
        return this.#fail(
          new NetvscError("ERR_NETVSC_TIMEOUT", `the host did not answer: ${this.#describe()}`),
        );
      case "completion":
        return this.#completion(input.packet, now);
      case "shared":
        return this.#shared(input.buffer, now);
      case "answer":
        return this.#answer(input.answer, now);
      case "denied":
        return this.#denied(input.error, now);
      case "channels":
        return this.#state === "opening" ? this.#scale(input.indices) : [];
    }
  }

  #propose(now: number): readonly AttachmentEffect[] {
    const { value, packetBytes } = this.#version();
    this.#await("init", now);
    return [send(NvspInit.packet({ version: value, versionAgain: value }, packetBytes), true)];
  }

  #completion(packet: Uint8Array, now: number): readonly AttachmentEffect[] {
    const type = NvspHeader.parse(packet)?.type;
    switch (this.#state) {
      case "init": {
        const reply = type === NvspInitComplete.type ? NvspInitComplete.parse(packet) : undefined;
        return reply === undefined ? this.#badReply(type) : this.#initialized(reply.status, now);
      }
      case "receive-buffer":
        return this.#receiveBuffer(packet, type, now);
      case "send-buffer":
        return this.#sendBuffer(packet, type);
      case "sub-channels":
        return this.#subChannels(packet, type);
      default:
        return [];
    }
  }

  #initialized(status: number, now: number): readonly AttachmentEffect[] {
    if (status !== NvspStatus.success) {
      this.#proposed++;
      if (this.#proposed < this.#versions.length) return this.#propose(now);
      return this.#fail(
        new NetvscError("ERR_NETVSC_VERSION", "the host refused every protocol version", status),
      );
    }
    const version = this.#version();
    const packets = configurationPackets(version, this.#known.mtu);
    const { v2, later } = RECEIVE_BUFFER_BYTES;
    const lengthBytes =
      this.#options.receiveBufferBytes ?? (version.value <= 0x0003_0002 ? v2 : later);
    return [
      ...packets.map((packet) => send(packet, false)),
      this.#share("receive-memory", lengthBytes, now),
    ];
  }

  #share(state: AttachmentState, lengthBytes: number, now: number): AttachmentEffect {
    this.#await(state, now);
    // Whole pages, in every half of it.
    this.#wantedBytes = lengthBytes - (lengthBytes % PAGE_SIZE);
    return { kind: "share", lengthBytes: this.#wantedBytes };
  }

  #shared(buffer: SharedBuffer, now: number): readonly AttachmentEffect[] {
    const { packetBytes } = this.#version();
    const gpadl = buffer.gpadlId;
    this.#memory = buffer;
    if (this.#state === "receive-memory") {
      this.#await("receive-buffer", now);
      const message = { gpadl, id: RECEIVE_BUFFER_ID };
      return [send(NvspSendReceiveBuffer.packet(message, packetBytes), true)];
    }
    if (this.#state !== "send-memory") return [];
    this.#await("send-buffer", now);
    return [send(NvspSendSendBuffer.packet({ gpadl, id: SEND_BUFFER_ID }, packetBytes), true)];
  }

  #receiveBuffer(
    packet: Uint8Array,
    type: number | undefined,
    now: number,
  ): readonly AttachmentEffect[] {
    const complete = NvspSendReceiveBufferComplete;
    const reply = type === complete.type ? complete.parse(packet) : undefined;
    if (reply === undefined) return this.#badReply(type);
    if (reply.status !== NvspStatus.success) return this.#refused(reply.status);
    const buffer = parseReceiveBuffer(packet, this.#memory!);
    if (buffer === undefined) return this.#badReply(type);
    this.#known.receiveBuffer = buffer;
    const lengthBytes = this.#options.sendBufferBytes ?? SEND_BUFFER_BYTES.freebsd;
    const effects: AttachmentEffect[] = [{ kind: "receive", buffer }];
    if (lengthBytes === 0) return [...effects, ...this.#initialize()];
    return [...effects, this.#share("send-memory", lengthBytes, now)];
  }

  #sendBuffer(packet: Uint8Array, type: number | undefined): readonly AttachmentEffect[] {
    const complete = NvspSendSendBufferComplete;
    const reply = type === complete.type ? complete.parse(packet) : undefined;
    if (reply === undefined) return this.#badReply(type);
    const { status, sectionSize } = reply;
    const memory = this.#memory!;
    const sections = sectionSize === 0 ? 0 : Math.floor(memory.lengthBytes / sectionSize);
    // A host that does not want it is sent everything by page lists.
    if (status === NvspStatus.success && sectionSize % 4 === 0 && sections > 0)
      this.#known.sendBuffer = { ...memory, sectionBytes: sectionSize, sections };
    return this.#initialize();
  }

  #initialize(): readonly AttachmentEffect[] {
    return this.#ask("initialize", {
      kind: "initialize",
      maxTransferBytes: MAX_TRANSFER_BYTES,
    });
  }

  #answer(answer: RndisAnswer, now: number): readonly AttachmentEffect[] {
    const ok = answer.status === RndisStatus.success;
    switch (this.#state) {
      case "initialize":
        return ok ? this.#rndisInitialized(answer) : this.#refused(answer.status);
      case "offload-capabilities":
        return this.#offloads(ok ? answer.information : undefined);
      case "offload-parameters":
        if (!ok) this.#known.offloads = NO_OFFLOADS;
        return this.#scalingCapabilities();
      case "scaling-capabilities":
        return this.#scaling(ok ? answer.information : undefined, now);
      case "scaling-parameters":
        if (!ok) this.#known.scaling = undefined;
        return this.#filterOff();
      case "filter":
        if (!ok) return this.#refused(answer.status);
        this.#state = "settle";
        this.#deadline = now + (this.#options.settleMs ?? DEFAULT_SETTLE_MS);
        return [];
      case "address":
        if (!ok) return this.#refused(answer.status);
        if (answer.information.byteLength < ADDRESS_BYTES) return this.#badReply(undefined);
        this.#known.address = answer.information.slice(0, ADDRESS_BYTES);
        return this.#query("frame-size", Oid.genMaximumFrameSize);
      case "frame-size": {
        const frameBytes = ok ? number32(answer.information) : undefined;
        if (frameBytes !== undefined && frameBytes > 0)
          this.#known.mtu = Math.min(this.#known.mtu, frameBytes);
        return this.#query("link-speed", Oid.genLinkSpeed);
      }
      case "link-speed":
        if (ok) this.#known.linkSpeed = (number32(answer.information) ?? 0) * LINK_SPEED_UNIT;
        return this.#query("link-status", Oid.genMediaConnectStatus);
      case "link-status":
        return this.#ready(ok && number32(answer.information) === MediaConnectStatus.connected);
      default:
        return [];
    }
  }

  /** Some steps are for things that one can do without. */
  #denied(error: Error, now: number): readonly AttachmentEffect[] {
    const { code = "" } = error as { code?: string };
    const gone = /^ERR_(RESCINDED|CLOSED|UNLOADED)$/u.test(code);
    const shares = this.#state === "receive-memory" || this.#state === "send-memory";
    const lessBytes = this.#wantedBytes / 2;
    if (shares && /^ERR_(NO|NETVSC)_MEMORY$/u.test(code) && lessBytes >= LEAST_BUFFER_BYTES)
      return [this.#share(this.#state, lessBytes, now)];
    if (this.#state === "send-memory" && !gone) return this.#initialize();
    if (this.#state === "offload-capabilities" && !gone) return this.#offloads(undefined);
    return this.#state === "idle" ? [] : this.#fail(error);
  }

  #rndisInitialized({ message }: RndisAnswer): readonly AttachmentEffect[] {
    const reply = RndisInitializeComplete.parse(message);
    if (reply === undefined) return this.#badReply(undefined);
    this.#known.maxPackets = Math.max(1, reply.maxPackets);
    this.#known.maxBytes = reply.maxBytes;
    // More than a page would be nonsense, and no host says so.
    this.#known.alignmentBytes = 1 << Math.min(reply.alignmentPower, 12);
    return this.#query(
      "offload-capabilities",
      Oid.tcpOffloadHardwareCapabilities,
      offloadQuery(this.#version()),
    );
  }

  #offloads(information: Uint8Array | undefined): readonly AttachmentEffect[] {
    const host = information && NdisOffload.parse(information);
    if (host === undefined) return this.#scalingCapabilities();
    const version = this.#version();
    const { mtu } = this.#known;
    const wishes = this.#options.offloads ?? {};
    const offloads = chooseOffloads(host, mtu, version.receiveCoalescing, wishes);
    this.#known.offloads = offloads;
    const parameters = offloadParameters(offloads, offloadRevision(version));
    return this.#set(
      "offload-parameters",
      Oid.tcpOffloadParameters,
      NdisOffloadParameters.emit(parameters),
    );
  }

  #scalingCapabilities(): readonly AttachmentEffect[] {
    if ((this.#options.channels ?? 1) <= 1 || !this.#version().multiChannel)
      return this.#filterOff();
    return this.#query("scaling-capabilities", Oid.genReceiveScaleCapabilities, scalingQuery());
  }

  #scaling(information: Uint8Array | undefined, now: number): readonly AttachmentEffect[] {
    const host = information && NdisRssCapabilities.parse(information);
    const scaling = host && chooseScaling(host);
    if (scaling === undefined) return this.#filterOff();
    this.#known.scaling = scaling;
    const subChannels = Math.min(this.#options.channels!, scaling.receiveQueues) - 1;
    this.#await("sub-channels", now);
    const message = { operation: SubChannelOperation.allocate, subChannels };
    return [send(NvspSubChannelRequest.packet(message, this.#version().packetBytes), true)];
  }

  #subChannels(packet: Uint8Array, type: number | undefined): readonly AttachmentEffect[] {
    const complete = NvspSubChannelComplete;
    const reply = type === complete.type ? complete.parse(packet) : undefined;
    if (reply === undefined) return this.#badReply(type);
    const asked = Math.min(this.#options.channels!, this.#known.scaling!.receiveQueues) - 1;
    const count = reply.status === NvspStatus.success ? Math.min(reply.subChannels, asked) : 0;
    // A refusal is no error: one channel is enough.
    if (count === 0) return this.#withoutScaling();
    // Whoever opens them has a limit of its own for how long that may take.
    this.#state = "opening";
    this.#deadline = Infinity;
    return [
      { kind: "open-channels", count, parameters: this.#known.parameters(this.#version(), false) },
    ];
  }

  #scale(indices: readonly number[]): readonly AttachmentEffect[] {
    if (indices.length === 0) return this.#withoutScaling();
    const { scaling } = this.#options;
    const parameters = scalingParameters(this.#known.scaling!, [0, ...indices], scaling);
    return this.#set(
      "scaling-parameters",
      Oid.genReceiveScaleParameters,
      emitRssParameters(parameters),
    );
  }

  #withoutScaling(): readonly AttachmentEffect[] {
    this.#known.scaling = undefined;
    return this.#filterOff();
  }

  /** Some hosts begin with a filter, and so deliver frames before anybody wants them. */
  #filterOff(): readonly AttachmentEffect[] {
    return this.#set("filter", Oid.genCurrentPacketFilter, emit32(PacketFilter.none));
  }

  #ready(linkUp: boolean): readonly AttachmentEffect[] {
    this.#state = "ready";
    this.#deadline = Infinity;
    return [{ kind: "ready", parameters: this.#known.parameters(this.#version(), linkUp) }];
  }

  #query(state: AttachmentState, oid: Oid, information?: Uint8Array): readonly AttachmentEffect[] {
    return this.#ask(state, {
      kind: "query",
      oid,
      ...(information !== undefined && { information }),
    });
  }

  #set(state: AttachmentState, oid: Oid, information: Uint8Array): readonly AttachmentEffect[] {
    return this.#ask(state, { kind: "set", oid, information });
  }

  /** The conversation has time limits of its own. */
  #ask(state: AttachmentState, question: RndisQuestion): readonly AttachmentEffect[] {
    this.#state = state;
    this.#deadline = Infinity;
    return [{ kind: "ask", question }];
  }

  #await(state: AttachmentState, now: number): void {
    this.#state = state;
    this.#deadline = now + (this.#options.stepTimeoutMs ?? DEFAULT_STEP_TIMEOUT_MS);
  }

  #fail(error: Error): readonly AttachmentEffect[] {
    this.#state = "failed";
    this.#deadline = Infinity;
    return [{ kind: "failed", error }];
  }

  #refused(status: number): readonly AttachmentEffect[] {
    const text = `the host refused (status 0x${status.toString(16)}): ${this.#describe()}`;
    return this.#fail(new NetvscError("ERR_NETVSC_REFUSED", text, status));
  }

  #badReply(type: number | undefined): readonly AttachmentEffect[] {
    const what = type === undefined ? "too short" : `message ${type}`;
    const text = `no answer to this: ${what}, ${this.#describe()}`;
    return this.#fail(new NetvscError("ERR_NETVSC_REPLY", text));
  }

  #version(): NvspVersion {
    return this.#versions[this.#proposed]!;
  }

  #describe(): string {
    if (this.#state !== "init") return `step ${this.#state}`;
    return `step init, proposing version ${this.#version().name}`;
  }
}

function send(packet: Uint8Array, awaited: boolean): AttachmentEffect {
  return { kind: "send", packet, awaited };
}

function number32(information: Uint8Array): number | undefined {
  return information.byteLength < 4 ? undefined : get32(information, 0);
}

function emit32(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}
