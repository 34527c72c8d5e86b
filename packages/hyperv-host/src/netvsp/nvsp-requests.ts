import type { IncomingRing } from "@hyperv-is/vmbus-core";
import {
  MDL_CHAIN_MAX,
  NvspInit,
  NvspInitComplete,
  NvspOidQueryEx,
  NvspOidQueryExComplete,
  NvspReceiveBufferSection,
  NvspRevokeReceiveBuffer,
  NvspRevokeSendBuffer,
  NvspSendNdisConfig,
  NvspSendNdisVersion,
  NvspSendReceiveBuffer,
  NvspSendReceiveBufferComplete,
  NvspSendSendBuffer,
  NvspSendSendBufferComplete,
  NvspStatus,
  NvspSubChannelComplete,
  NvspSubChannelRequest,
  NvspSwitchDataPath,
  NvspType,
  RndisStatus,
  SEND_SECTION_BYTES,
  SubChannelOperation,
} from "@hyperv-is/hv-netvsc/protocol";
import type { ServiceContext } from "../host-service.js";
import { GuestBuffer } from "./guest-buffer.js";
import { isKnownMessage, stepNegotiation, type NegotiationInput } from "./negotiation.js";
import type { NetvspReplies } from "./netvsp-replies.js";
import type { NetvspSession } from "./netvsp-session.js";
import { ReceiveSlots } from "./receive-slots.js";

/** Oldest version of NVSP, whose acceptance is said in another field, too. */
const V1 = 2;
const NOT_VERSION_1 = 0xffff_ffff;

/** What is allowed, and what requests lead to outside the channel. */
export interface NvspRequestsOwner {
  /** u32 values of the versions that are accepted. */
  readonly versions: readonly number[];
  readonly subChannelsMax: number;
  /** A buffer is not to be touched any more. */
  revoke(which: "receive" | "send"): void;
  /** Ends the channel: the guest broke the protocol. */
  stop(rule: string, detail: string): void;
}

/** The NVSP messages of a channel, but for those that carry RNDIS messages. */
export class NvspRequests {
  readonly #session: NetvspSession;
  readonly #context: ServiceContext;
  readonly #replies: NetvspReplies;
  readonly #owner: NvspRequestsOwner;
  readonly #isPrimary: boolean;

  constructor(
    session: NetvspSession,
    context: ServiceContext,
    replies: NetvspReplies,
    owner: NvspRequestsOwner,
    isPrimary: boolean,
  ) {
    this.#session = session;
    this.#context = context;
    this.#replies = replies;
    this.#owner = owner;
    this.#isPrimary = isPrimary;
  }

  /**
   * Carries out a message.
   *
   * @param message - a private copy. @returns True if it is the first RNDIS packet, and may be sent.
   */
  handle(incoming: IncomingRing, type: number, message: Uint8Array): boolean {
    const { negotiation } = this.#session;
    const version = negotiation.name === "init" ? undefined : negotiation.version;
    if (!isKnownMessage(type, version)) {
      const when = version === undefined ? "before INIT" : `in version ${version.name}`;
      this.#owner.stop("netvsp-message-type", `a message of type ${type} ${when}`);
      return false;
    }
    if (!this.#isPrimary && type !== NvspType.oidQueryEx) {
      this.#owner.stop("netvsp-message-channel", `a message of type ${type} on a sub-channel`);
      return false;
    }
    if (type === NvspType.sendRndisPacket) return this.#step({ kind: "rndis" });
    if (negotiates(type)) this.#negotiate(incoming, type, message);
    else if (this.#step({ kind: "operation" })) this.#operate(incoming, type, message);
    return false;
  }

  /** False, and the end of the channel, for a message whose answer the guest does not ask for. */
  isAnswered(incoming: IncomingRing): boolean {
    if (incoming.completionRequested) return true;
    this.#owner.stop("netvsp-no-completion-requested", "a message that wants no completion");
    return false;
  }

  #negotiate(incoming: IncomingRing, type: number, bytes: Uint8Array): void {
    switch (type) {
      case NvspType.init: {
        const message = this.#read(NvspInit, bytes);
        if (message && this.isAnswered(incoming)) this.#init(incoming, message.version);
        return;
      }
      case NvspType.sendNdisConfig: {
        const message = this.#read(NvspSendNdisConfig, bytes);
        if (message && this.#step({ kind: "ndis-config", ...message }))
          this.#replies.acknowledge(incoming);
        return;
      }
      case NvspType.sendNdisVersion: {
        const message = this.#read(NvspSendNdisVersion, bytes);
        if (message && this.#step({ kind: "ndis-version", ...message }))
          this.#replies.acknowledge(incoming);
        return;
      }
      case NvspType.sendReceiveBuffer: {
        const message = this.#read(NvspSendReceiveBuffer, bytes);
        if (message && this.isAnswered(incoming) && this.#step({ kind: "receive-buffer" }))
          this.#setReceiveBuffer(incoming, message.gpadl);
        return;
      }
      case NvspType.sendSendBuffer: {
        const message = this.#read(NvspSendSendBuffer, bytes);
        if (message && this.isAnswered(incoming) && this.#step({ kind: "send-buffer" }))
          this.#setSendBuffer(incoming, message.gpadl);
      }
    }
  }

  /** What an adapter at work is asked beside frames. */
  #operate(incoming: IncomingRing, type: number, bytes: Uint8Array): void {
    switch (type) {
      case NvspType.revokeReceiveBuffer:
        if (this.#read(NvspRevokeReceiveBuffer, bytes)) this.#owner.revoke("receive");
        return;
      case NvspType.revokeSendBuffer:
        if (this.#read(NvspRevokeSendBuffer, bytes)) this.#owner.revoke("send");
        return;
      case NvspType.subChannel: {
        const message = this.#read(NvspSubChannelRequest, bytes);
        if (message && this.isAnswered(incoming)) this.#grantSubChannels(incoming, message);
        return;
      }
      case NvspType.switchDataPath:
        // There is one path: the guest is on it whatever it says.
        if (this.#read(NvspSwitchDataPath, bytes)) this.#replies.acknowledge(incoming);
        return;
      case NvspType.oidQueryEx:
        if (this.#read(NvspOidQueryEx, bytes) && this.isAnswered(incoming))
          this.#replies.answer(
            incoming,
            NvspOidQueryExComplete.emit({ status: RndisStatus.notSupported, bytes: 0 }),
          );
    }
  }

  #init(incoming: IncomingRing, version: number): void {
    const session = this.#session;
    const input = { kind: "init", version } as const;
    const { state, outcome } = stepNegotiation(session.negotiation, input, this.#owner.versions);
    if (outcome === "unexpected") {
      this.#owner.stop("netvsp-message-state", "an INIT after an accepted one");
      return;
    }
    session.negotiation = state;
    const isAccepted = outcome === "accepted";
    this.#replies.answer(
      incoming,
      NvspInitComplete.emit({
        deprecatedVersion: isAccepted && version === V1 ? V1 : NOT_VERSION_1,
        maxMdlChainLength: MDL_CHAIN_MAX,
        // Not `failure`, as one would think.
        status: isAccepted ? NvspStatus.success : NvspStatus.none,
      }),
    );
  }

  /** Takes a step of the negotiation; ends the channel if it must not come now. */
  #step(input: NegotiationInput): boolean {
    const session = this.#session;
    const before = session.negotiation;
    const { state, outcome } = stepNegotiation(before, input, this.#owner.versions);
    if (outcome !== "accepted") {
      this.#owner.stop("netvsp-message-state", `${input.kind} in state ${before.name}`);
      return false;
    }
    session.negotiation = state;
    if (state.name === "ready" && before.name !== "ready") session.begin();
    return true;
  }

  #setReceiveBuffer(incoming: IncomingRing, gpadlId: number): void {
    const session = this.#session;
    const buffer = this.#lent(gpadlId);
    const slots = new ReceiveSlots(buffer?.sizeBytes ?? 0, session.mtu);
    if (buffer === undefined || slots.frameSlots === 0) {
      this.#owner.stop("netvsp-receive-buffer", `GPADL ${gpadlId} is no buffer for frames`);
      return;
    }
    session.receiveBuffer = buffer;
    session.slots = slots;
    const { SIZE } = NvspSendReceiveBufferComplete;
    const answer = new Uint8Array(SIZE + NvspReceiveBufferSection.SIZE);
    NvspSendReceiveBufferComplete.write(answer, { status: NvspStatus.success, sectionCount: 1 });
    NvspReceiveBufferSection.write(answer.subarray(SIZE), {
      offset: 0,
      subAllocationSize: slots.slotBytes,
      subAllocationCount: slots.count,
      endOffset: slots.slotBytes * slots.count,
    });
    this.#replies.answer(incoming, answer);
  }

  #setSendBuffer(incoming: IncomingRing, gpadlId: number): void {
    const buffer = this.#lent(gpadlId);
    if (buffer === undefined) {
      this.#owner.stop("netvsp-send-buffer", `GPADL ${gpadlId} is no buffer for messages`);
      return;
    }
    this.#session.sendBuffer = buffer;
    const answer = { status: NvspStatus.success, sectionSize: SEND_SECTION_BYTES };
    this.#replies.answer(incoming, NvspSendSendBufferComplete.emit(answer));
  }

  #lent(gpadlId: number): GuestBuffer | undefined {
    const ranges = this.#context.gpadl(gpadlId);
    if (ranges === undefined) return undefined;
    return GuestBuffer.of(gpadlId, ranges, this.#context.memory, this.#context.dataWritten);
  }

  #grantSubChannels(
    incoming: IncomingRing,
    { operation, subChannels: wanted }: NvspSubChannelRequest,
  ): void {
    const session = this.#session;
    const isGranted =
      operation === SubChannelOperation.allocate &&
      wanted <= this.#owner.subChannelsMax &&
      // Each channel has a slot of its own, at least.
      session.slots.frameSlots > wanted;
    this.#replies.answer(
      incoming,
      NvspSubChannelComplete.emit({
        status: isGranted ? NvspStatus.success : NvspStatus.failure,
        subChannels: isGranted ? wanted : 0,
      }),
    );
    if (!isGranted || wanted === 0) return;
    session.subChannels = wanted;
    session.sendTableSent = false;
    this.#context.offerSubChannels(wanted);
  }

  /** Parses a message; ends the channel if it is too short. */
  #read<T>(
    message: { readonly SIZE: number; parse(bytes: Uint8Array): T | undefined },
    bytes: Uint8Array,
  ): T | undefined {
    const parsed = message.parse(bytes);
    if (parsed === undefined)
      this.#owner.stop("netvsp-message-short", `${bytes.byteLength} of ${message.SIZE} bytes`);
    return parsed;
  }
}

/** True for the messages that come before an adapter is at work. */
function negotiates(type: number): boolean {
  return (
    type === NvspType.init ||
    type === NvspType.sendNdisConfig ||
    type === NvspType.sendNdisVersion ||
    type === NvspType.sendReceiveBuffer ||
    type === NvspType.sendSendBuffer
  );
}
