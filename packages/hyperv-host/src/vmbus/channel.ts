import {
  MONITOR_NONE,
  OfferChannel,
  type Guid,
  type NtStatus,
  type OpenChannel,
} from "@hyperv-is/vmbus-core/protocol";
import type { DeviceOffer } from "./offers.js";
import type { ChannelOpening } from "./worker-link.js";

/** Where a channel is in its life, as the server sees it. */
export type ChannelState =
  /** Not offered to the guest, or released by it. */
  | "client-released"
  /** Offered. */
  | "closed"
  /** The worker was asked to open it. */
  | "opening"
  | "open"
  /** The worker was asked to close it. */
  | "closing"
  /** The same, and the guest wants it opened again. */
  | "closing-reopen"
  /** The device goes away; the worker was asked to let go, the guest does not know yet. */
  | "rescinding"
  /** Rescinded; the guest has not released it yet. */
  | "revoked"
  /** The same, and the device is back. */
  | "reoffered"
  /** The guest has released it or left; the worker has not let go yet. */
  | "closing-client-release";

/** What the guest asks for. */
export type GuestInput = "open" | "close" | "open-reserved" | "close-reserved" | "release";

/** What the worker has done. */
export type WorkerInput = "opened" | "open-failed" | "closed" | "revoked";

/** What the host, or the connection, does with a channel. */
export type HostInput = "offer" | "revoke" | "reoffer" | "disconnect";

/** Anything that happens to a channel. */
export type ChannelInput = GuestInput | WorkerInput | HostInput;

/** What is to be done on a transition, in this order. */
export type ChannelAction =
  /** Tells the guest of the channel, which has its relid. */
  | "send-offer"
  | "request-open"
  | "request-close"
  | "request-revoke"
  | "send-open-result"
  /** Answers CLOSE_RESERVED_CHANNEL, if it was that. */
  | "answer-close-reserved"
  /** Drops the request that the channel was open by, and the ports that came with it. */
  | "forget-open"
  /** Takes the request that came while closing in place of the old one. */
  | "reopen"
  | "send-rescind"
  /** Has all sub-channels of this primary rescinded. */
  | "rescind-sub-channels"
  /** Takes the channel's GPADLs back from the worker. */
  | "release-gpadls"
  /** Forgets them: no worker has them any more. */
  | "drop-gpadls"
  /** Answers what the guest still waits for: creations as failed, teardowns as done. */
  | "finish-gpadls"
  | "free-relid"
  /** Forgets the channel if its device is gone. */
  | "settle";

/** A row of the table. */
export interface Transition {
  readonly to: ChannelState;
  readonly actions: readonly ChannelAction[];
}

/**
 * Outcome of an input: a transition, or nothing at all, or an error (for the guest's inputs a violation
 * that is not answered).
 */
export type ChannelStep = Transition | "ignore" | "error";

type Row = Readonly<Partial<Record<ChannelInput, Transition | "ignore">>>;

function go(to: ChannelState, ...actions: readonly ChannelAction[]): Transition {
  return { to, actions };
}

const IGNORED_WHEN_REVOKED: Row = {
  open: "ignore",
  close: "ignore",
  "open-reserved": "ignore",
  "close-reserved": "ignore",
};

/**
 * The life of a channel on the host: each state times each input; what is not here is an error.
 *
 * After the channel states of OpenVMM's `vmbus_server/src/channels.rs`, with one more: since workers let
 * go of a rescinded channel in their own time, `rescinding` lies between "the device is gone" and the
 * RESCIND that tells the guest that nobody touches its memory any more.
 */
export const channelTable: Readonly<Record<ChannelState, Row>> = {
  "client-released": {
    offer: go("closed", "send-offer"),
    revoke: go("client-released", "settle"),
    disconnect: go("client-released", "settle"),
  },
  closed: {
    open: go("opening", "request-open"),
    "open-reserved": go("opening", "request-open"),
    release: go("client-released", "release-gpadls", "free-relid", "settle"),
    revoke: go("rescinding", "request-revoke"),
    disconnect: go("client-released", "release-gpadls", "free-relid", "settle"),
  },
  opening: {
    opened: go("open", "send-open-result"),
    "open-failed": go("closed", "send-open-result", "forget-open"),
    revoke: go("rescinding", "request-revoke"),
    disconnect: go("closing-client-release", "request-close", "release-gpadls", "free-relid"),
  },
  open: {
    close: go("closing", "rescind-sub-channels", "request-close"),
    "close-reserved": go("closing", "request-close"),
    revoke: go("rescinding", "request-revoke"),
    disconnect: go("closing-client-release", "request-close", "release-gpadls", "free-relid"),
  },
  closing: {
    open: go("closing-reopen"),
    release: go("closing-client-release", "release-gpadls", "free-relid"),
    closed: go("closed", "answer-close-reserved", "forget-open"),
    revoke: go("rescinding", "request-revoke"),
    disconnect: go("closing-client-release", "release-gpadls", "free-relid"),
  },
  "closing-reopen": {
    closed: go("closed", "answer-close-reserved", "reopen"),
    revoke: go("rescinding", "request-revoke"),
    disconnect: go("closing-client-release", "release-gpadls", "free-relid"),
  },
  rescinding: {
    ...IGNORED_WHEN_REVOKED,
    // The guest may release a closed channel at the very moment when the host takes it away.
    release: go("closing-client-release", "drop-gpadls", "free-relid"),
    opened: "ignore",
    "open-failed": "ignore",
    closed: "ignore",
    revoked: go("revoked", "forget-open", "finish-gpadls", "send-rescind"),
    revoke: "ignore",
    disconnect: go("closing-client-release", "drop-gpadls", "free-relid"),
  },
  revoked: {
    ...IGNORED_WHEN_REVOKED,
    release: go("client-released", "drop-gpadls", "free-relid", "settle"),
    revoke: "ignore",
    reoffer: go("reoffered"),
    disconnect: go("client-released", "drop-gpadls", "free-relid", "settle"),
  },
  reoffered: {
    ...IGNORED_WHEN_REVOKED,
    release: go("closed", "drop-gpadls", "send-offer"),
    revoke: go("revoked"),
    disconnect: go("client-released", "drop-gpadls", "free-relid", "settle"),
  },
  "closing-client-release": {
    opened: "ignore",
    "open-failed": "ignore",
    closed: go("client-released", "settle"),
    revoked: go("client-released", "settle"),
    revoke: "ignore",
    disconnect: "ignore",
  },
};

/** What an input does in a state. */
export function channelStep(state: ChannelState, input: ChannelInput): ChannelStep {
  return channelTable[state][input] ?? "error";
}

/** Where the answers about a reserved channel go. */
export interface ReservedTarget {
  readonly vp: number;
  readonly sint: number;
}

/** A request to open, from OPENCHANNEL or OPEN_RESERVED_CHANNEL. */
export type OpenRequest = OpenChannel & { readonly reserved?: ReservedTarget };

/** A channel as an administrator sees it. */
export interface ChannelSummary {
  readonly classId: Guid;
  readonly instanceId: Guid;
  readonly subChannelIndex: number;
  /** While the guest knows it. */
  readonly relid: number | undefined;
  readonly state: ChannelState;
  /** Processor of its interrupts as the guest asked for it, while it is open. */
  readonly targetVp: number | undefined;
}

/** A channel of a device, primary or sub-channel: the state and what belongs to it. */
export class ServerChannel {
  /** Never used again, unlike a relid. */
  readonly key: number;
  readonly subChannelIndex: number;
  offer: DeviceOffer;
  state: ChannelState = "client-released";
  /** While the guest knows the channel. */
  relid: number | undefined;
  connectionId = 0;
  monitorId: number | undefined;
  /** The request that the channel is open by, or being opened or closed by. */
  open: OpenRequest | undefined;
  /** The same, as the worker got it. */
  opening: ChannelOpening | undefined;
  /** Connection that the guest chose for this opening. */
  ownConnectionId: number | undefined;
  /** The request that came while it was closing. */
  reopen: OpenRequest | undefined;
  /** Result of the last opening. */
  status: NtStatus = 0;
  /** MODIFYCHANNEL in progress, and the target to move to afterwards. */
  modify: { next: number | undefined } | undefined;
  /** The worker was asked to let go for good, and has not answered: what it says of opening and closing is old. */
  isRevoking = false;
  /** The device is gone; the channel is kept only until guest and worker have let go. */
  isDoomed = false;
  /** The device that comes back in place of the one that goes. */
  successor: DeviceOffer | undefined;

  constructor(key: number, offer: DeviceOffer, subChannelIndex: number) {
    this.key = key;
    this.offer = offer;
    this.subChannelIndex = subChannelIndex;
  }

  /** True if the guest may not know that it exists. */
  get isReleased(): boolean {
    return this.state === "client-released" || this.state === "closing-client-release";
  }

  /** True if no worker has anything to do with it any more, or will not in a moment. */
  get isRevoked(): boolean {
    return this.state === "revoked" || this.state === "reoffered" || this.state === "rescinding";
  }

  /** True if a reserved opening holds it: then it survives the end of the connection. */
  get isReserved(): boolean {
    return this.open?.reserved !== undefined && this.state !== "closing-reopen";
  }

  /** True if its interrupts may be moved. */
  get hasInterrupts(): boolean {
    return this.state === "open" && this.opening?.interrupt !== undefined;
  }

  get isPrimary(): boolean {
    return this.subChannelIndex === 0;
  }

  /** Forgets how it was opened, and what was to happen to that. */
  forgetOpening(): void {
    this.open = undefined;
    this.opening = undefined;
    this.modify = undefined;
    this.reopen = undefined;
  }

  summary(): ChannelSummary {
    return {
      classId: this.offer.classId,
      instanceId: this.offer.instanceId,
      subChannelIndex: this.subChannelIndex,
      relid: this.relid,
      state: this.state,
      targetVp: this.open?.targetVp,
    };
  }
}

/** OFFERCHANNEL about a channel that has a relid. */
export function offerMessage(channel: ServerChannel): Uint8Array {
  const { offer, subChannelIndex, relid = 0, connectionId, monitorId } = channel;
  return OfferChannel.emit({
    classId: offer.classId,
    instanceId: offer.instanceId,
    flags: offer.flags ?? 0,
    mmioMegabytes: offer.mmioMegabytes ?? 0,
    userData: offer.userData ?? new Uint8Array(0),
    subChannelIndex,
    mmioMegabytesOptional: 0,
    relid,
    monitorId: monitorId ?? MONITOR_NONE,
    monitorAllocated: monitorId !== undefined,
    dedicatedInterrupt: true,
    connectionId,
  });
}
