import {
  CloseChannel,
  CloseReservedChannel,
  GpadlBody,
  GpadlHeader,
  GpadlTeardown,
  MessageType,
  ModifyChannel,
  ModifyChannelResponse,
  NtStatus,
  OpenChannel,
  OpenReservedChannel,
  ProtocolVersion,
  RelidReleased,
  VP_INTERRUPTS_DISABLED,
  lookupMessage,
} from "@hyperv-is/vmbus-core/protocol";
import type { ChannelInput, ServerChannel } from "./channel.js";
import type { ChannelSet } from "./channel-set.js";
import type { Outbox } from "./effects.js";
import type { Gpadl, GpadlOutcome } from "./gpadl.js";

/** MODIFYCHANNEL_RESPONSE exists, and only one request may be pending. */
const MODIFY_ANSWERED_SINCE = ProtocolVersion.v5_3;

/**
 * The guest's messages about channels and GPADLs. A message that cannot be carried out is recorded as a
 * violation, and answered only where the protocol has an answer.
 */
export class GuestRequests {
  readonly #channels: ChannelSet;
  readonly #outbox: Outbox;

  constructor(channels: ChannelSet, outbox: Outbox) {
    this.#channels = channels;
    this.#outbox = outbox;
  }

  /**
   * Carries out a message that is legal now and long enough.
   *
   * @param features - negotiated `Feature` bits.
   * @returns False if the message is not about a channel.
   */
  handle(type: MessageType, bytes: Uint8Array, features: number): boolean {
    switch (type) {
      case MessageType.openChannel:
        this.#open(OpenChannel.parse(bytes, features));
        return true;
      case MessageType.openReservedChannel:
        this.#openReserved(OpenReservedChannel.parse(bytes));
        return true;
      case MessageType.closeChannel:
        this.#simple(type, "close", CloseChannel.parse(bytes)?.relid);
        return true;
      case MessageType.closeReservedChannel:
        this.#closeReserved(CloseReservedChannel.parse(bytes));
        return true;
      case MessageType.relidReleased:
        this.#simple(type, "release", RelidReleased.parse(bytes)?.relid);
        return true;
      case MessageType.gpadlHeader:
        this.#gpadlHeader(GpadlHeader.parse(bytes));
        return true;
      case MessageType.gpadlBody:
        this.#gpadlBody(GpadlBody.parse(bytes));
        return true;
      case MessageType.gpadlTeardown:
        this.#gpadlTeardown(GpadlTeardown.parse(bytes));
        return true;
      case MessageType.modifyChannel:
        this.#modify(ModifyChannel.parse(bytes));
        return true;
      default:
        return false;
    }
  }

  /** A worker has the GPADL, or could not take it. */
  gpadlCreated(channel: ServerChannel, gpadlId: number, status: NtStatus): void {
    const gpadl = this.#channels.gpadls.find(channel.key, gpadlId);
    const isTaken = (status | 0) >= 0;
    if (gpadl?.state === "offered") {
      if (isTaken) gpadl.state = "accepted";
      else this.#channels.removeGpadl(gpadl);
      if (channel.relid !== undefined)
        this.#channels.sendGpadlCreated(channel.relid, gpadlId, status);
    } else if (gpadl?.state === "offered-tearing-down") {
      if (isTaken) this.#channels.requestTeardown(channel, gpadl);
      else this.#channels.removeGpadl(gpadl);
    }
  }

  /** A worker has let go of a GPADL. */
  gpadlTorndown(channel: ServerChannel, gpadlId: number): void {
    const gpadl = this.#channels.gpadls.find(channel.key, gpadlId);
    if (gpadl?.state === "tearing-down") this.#channels.finishTeardown(gpadl);
  }

  /** A worker has moved a channel's interrupts, or could not. */
  modified(channel: ServerChannel, status: NtStatus): void {
    const { modify, relid } = channel;
    if (channel.state !== "open" || modify === undefined || relid === undefined) return;
    channel.modify = undefined;
    this.#answerModify(relid, status);
    if (modify.next !== undefined) this.#modify({ relid, targetVp: modify.next });
  }

  #open(message: OpenChannel | undefined): void {
    const channel = this.#find(MessageType.openChannel, message?.relid);
    if (channel === undefined || message === undefined) return;
    if (!this.#channels.open(channel, message)) this.#stateError(MessageType.openChannel, channel);
  }

  #openReserved(message: OpenReservedChannel | undefined): void {
    const channel = this.#find(MessageType.openReservedChannel, message?.relid);
    if (channel === undefined || message === undefined) return;
    const request = {
      relid: message.relid,
      openId: 0,
      ringGpadlId: message.ringGpadlId,
      // A crash dumper polls.
      targetVp: VP_INTERRUPTS_DISABLED,
      downstreamPageOffset: message.downstreamPageOffset,
      userData: new Uint8Array(0),
      redirectInterrupt: false,
      reserved: { vp: message.targetVp, sint: message.sint },
    };
    if (!this.#channels.open(channel, request))
      this.#stateError(MessageType.openReservedChannel, channel);
  }

  #closeReserved(message: CloseReservedChannel | undefined): void {
    const channel = this.#find(MessageType.closeReservedChannel, message?.relid);
    if (channel === undefined || message === undefined) return;
    if (channel.state === "open" && !channel.isReserved) {
      this.#stateError(MessageType.closeReservedChannel, channel);
      return;
    }
    if (channel.open !== undefined && channel.state === "open")
      channel.open = { ...channel.open, reserved: { vp: message.targetVp, sint: message.sint } };
    if (!this.#channels.step(channel, "close-reserved"))
      this.#stateError(MessageType.closeReservedChannel, channel);
  }

  #simple(type: MessageType, input: ChannelInput, relid: number | undefined): void {
    const channel = this.#find(type, relid);
    if (channel === undefined) return;
    const isReservedClose = input === "close" && channel.state === "open" && channel.isReserved;
    if (isReservedClose || !this.#channels.step(channel, input)) this.#stateError(type, channel);
  }

  #gpadlHeader(message: GpadlHeader | undefined): void {
    if (message === undefined) return;
    const { relid, gpadlId } = message;
    const channel = this.#find(MessageType.gpadlHeader, relid);
    if (channel === undefined) this.#refuseGpadl(relid, gpadlId);
    else if (channel.isReserved) {
      // A body names no channel: it could mean this one's GPADL or another's.
      this.#outbox.violation("gpadl-reserved-channel", "the channel is reserved", relid);
      this.#refuseGpadl(relid, gpadlId);
    } else this.#gpadlProgress(gpadlId, this.#channels.gpadls.begin(channel.key, message));
  }

  #gpadlBody(message: GpadlBody | undefined): void {
    if (message === undefined) return;
    this.#gpadlProgress(message.gpadlId, this.#channels.gpadls.append(message));
  }

  #gpadlProgress(gpadlId: number, outcome: GpadlOutcome): void {
    switch (outcome.kind) {
      case "in-progress":
        return;
      case "unknown":
        // There is no relid to answer to.
        this.#outbox.violation("gpadl-unknown", `${hex(gpadlId)} expects no more messages`);
        return;
      case "fault": {
        const { rule, detail } = outcome.fault;
        const relid = this.#channels.byKey(outcome.key)?.relid;
        this.#outbox.violation(rule, `${hex(gpadlId)}: ${detail}`, relid);
        if (relid !== undefined) this.#refuseGpadl(relid, gpadlId);
        return;
      }
      case "complete":
        this.#gpadlComplete(outcome.gpadl);
    }
  }

  #gpadlComplete(gpadl: Gpadl): void {
    const channel = this.#channels.byKey(gpadl.key);
    if (channel?.relid === undefined) return;
    if (channel.isRevoked) {
      // No device will ever use it.
      gpadl.state = "accepted";
      this.#channels.sendGpadlCreated(channel.relid, gpadl.id, NtStatus.success);
      return;
    }
    this.#outbox.request(channel.offer.worker, {
      kind: "gpadl-create",
      key: channel.key,
      gpadlId: gpadl.id,
      ranges: gpadl.ranges,
    });
  }

  #gpadlTeardown(message: GpadlTeardown | undefined): void {
    const channel = this.#find(MessageType.gpadlTeardown, message?.relid);
    if (channel === undefined || message === undefined) return;
    const { relid, gpadlId } = message;
    const gpadl = this.#channels.gpadls.find(channel.key, gpadlId);
    const broken =
      gpadl === undefined
        ? "is not there"
        : gpadl.state !== "accepted"
          ? `is ${gpadl.state}`
          : channel.isReserved
            ? "belongs to a reserved channel"
            : undefined;
    if (gpadl === undefined || broken !== undefined) {
      this.#outbox.violation("gpadl-teardown-state", `${hex(gpadlId)} ${String(broken)}`, relid);
      return;
    }
    const isRing = channel.state === "open" && channel.open?.ringGpadlId === gpadlId;
    if (isRing)
      this.#outbox.violation("gpadl-teardown-open-ring", `${hex(gpadlId)} holds the rings`, relid);
    if (channel.state === "rescinding") gpadl.state = "tearing-down";
    else if (channel.isRevoked) this.#channels.finishTeardown(gpadl);
    else this.#channels.requestTeardown(channel, gpadl);
  }

  #modify(message: ModifyChannel | undefined): void {
    const channel = this.#find(MessageType.modifyChannel, message?.relid);
    if (message === undefined) return;
    const { relid, targetVp } = message;
    const isTarget = targetVp < this.#channels.vpCount;
    if (channel?.hasInterrupts !== true || !isTarget) {
      if (channel !== undefined) {
        const detail = isTarget
          ? `the channel is ${channel.state} or has no interrupts`
          : `there is no processor ${targetVp}`;
        this.#outbox.violation("modify-channel", detail, relid);
      }
      this.#answerModify(relid, NtStatus.unsuccessful);
    } else if (channel.modify === undefined) {
      channel.modify = { next: undefined };
      this.#outbox.request(channel.offer.worker, { kind: "modify", key: channel.key, targetVp });
    } else if (this.#isModifyAnswered)
      this.#outbox.violation("modify-channel-pending", "the last one is not answered yet", relid);
    // An older guest cannot know when it is done: the latest wish counts.
    else channel.modify.next = targetVp;
  }

  get #isModifyAnswered(): boolean {
    return (this.#channels.connection?.version ?? 0) >= MODIFY_ANSWERED_SINCE;
  }

  #answerModify(relid: number, status: NtStatus): void {
    if (this.#isModifyAnswered) this.#outbox.send(ModifyChannelResponse.emit({ relid, status }));
  }

  #refuseGpadl(relid: number, gpadlId: number): void {
    this.#channels.sendGpadlCreated(relid, gpadlId, NtStatus.unsuccessful);
  }

  #find(type: MessageType, relid: number | undefined): ServerChannel | undefined {
    if (relid === undefined) return undefined;
    const channel = this.#channels.byRelid(relid);
    if (channel === undefined)
      this.#outbox.violation("unknown-relid", `${nameOf(type)} for relid ${relid}`);
    return channel;
  }

  #stateError(type: MessageType, { state, relid, isReserved }: ServerChannel): void {
    const detail = `${nameOf(type)} while ${state}${isReserved ? ", reserved" : ""}`;
    this.#outbox.violation("channel-state", detail, relid);
  }
}

/** Name of a message, for people. */
export function nameOf(type: MessageType): string {
  return lookupMessage(type)?.name ?? `message ${type}`;
}

function hex(gpadlId: number): string {
  return `GPADL 0x${gpadlId.toString(16)}`;
}
