import type { GpaRange, Guid, NtStatus, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";

/** How a guest is told that a channel has something for it. */
export interface GuestInterrupt {
  readonly vp: number;
  readonly sint: number;
  readonly flag: number;
  /** Below protocol 2.4: GPA of the interrupt page's receive half, whose bit `relid` is set before flag 0. */
  readonly receiveHalf?: number;
}

/** A channel that a guest opens, as its host worker gets it: plain data, every page checked. */
export interface ChannelOpening {
  /** Names the channel for as long as the host runs; never used again, unlike a relid. */
  readonly key: number;
  /** Also the channel's flag in the worker's bitmap. */
  readonly relid: number;
  readonly classId: Guid;
  readonly instanceId: Guid;
  /** 0 for a primary channel. */
  readonly subChannelIndex: number;
  /** Of the bus. */
  readonly version: ProtocolVersion;
  /** Negotiated `Feature` bits. */
  readonly features: number;
  readonly ringGpadlId: number;
  /** GPA of each page of both rings, guest to host first. */
  readonly ringPages: readonly number[];
  /** Pages of the guest-to-host ring, control page included. */
  readonly downstreamPageOffset: number;
  /** Undefined for a channel without interrupts. */
  readonly interrupt: GuestInterrupt | undefined;
  /** 120 bytes from the guest. */
  readonly userData: Uint8Array;
}

/**
 * What the server asks of a host worker. Each but the last is answered once, by the reply of the same name, in
 * any order; requests are carried out in the order of arrival.
 */
export type WorkerRequest =
  | { readonly kind: "open"; readonly opening: ChannelOpening }
  | { readonly kind: "close"; readonly key: number }
  | { readonly kind: "modify"; readonly key: number; readonly targetVp: number }
  | {
      readonly kind: "gpadl-create";
      readonly key: number;
      readonly gpadlId: number;
      readonly ranges: readonly GpaRange[];
    }
  | { readonly kind: "gpadl-teardown"; readonly key: number; readonly gpadlId: number }
  /** The device goes away: close, and forget its GPADLs. */
  | { readonly kind: "revoke"; readonly key: number }
  /** The guest has let go of a channel that was revoked: it reads nothing of it any more. Not answered. */
  | { readonly kind: "guest-released"; readonly key: number };

/** What a host worker answers, and what it has to say by itself. */
export type WorkerReply =
  | { readonly kind: "opened"; readonly key: number; readonly status: NtStatus }
  /** The rings are no longer touched. */
  | { readonly kind: "closed"; readonly key: number }
  /** No interrupt goes to the old virtual processor any more. */
  | { readonly kind: "modified"; readonly key: number; readonly status: NtStatus }
  | {
      readonly kind: "gpadl-created";
      readonly key: number;
      readonly gpadlId: number;
      readonly status: NtStatus;
    }
  /** The memory is no longer touched. */
  | { readonly kind: "gpadl-torndown"; readonly key: number; readonly gpadlId: number }
  /** Nothing of the channel's memory is touched any more. */
  | { readonly kind: "revoked"; readonly key: number }
  /** A device wants sub-channels 1 to `count` to be offered; a fault, that it be done twice. */
  | {
      readonly kind: "offer-sub-channels";
      readonly key: number;
      readonly count: number;
      readonly repeated: boolean;
    }
  /** A fault wants a sub-channel to go away; and to come back after a while, if a number is given. */
  | {
      readonly kind: "rescind-sub-channel";
      readonly key: number;
      readonly reofferAfterMs?: number;
    }
  /** A device, or a fault, wants the device to go away; and to come back after a while, if a number is given. */
  | {
      readonly kind: "rescind-device";
      readonly instanceId: Guid;
      readonly reofferAfterMs?: number;
    }
  | {
      readonly kind: "violation";
      readonly key: number;
      readonly rule: string;
      readonly detail: string;
    };

/** The server's end of the road to a host worker: a `MessageLink`, or whatever else keeps the order. */
export interface HostWorkerLink {
  /** Sends a copy of a plain message, and wakes the worker. */
  send(message: WorkerRequest): void;
}
