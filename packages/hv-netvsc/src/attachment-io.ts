import type { OffloadWishes } from "./offload-choice.js";
import type { NetvscParameters, ReceiveBuffer, SharedBuffer } from "./parameters.js";
import type { RndisAnswer, RndisQuestion } from "./rndis-conversation.js";
import type { ScalingChoice } from "./scaling.js";

/** What can be chosen about the dialogue. */
export interface AttachmentOptions {
  /** NVSP versions to propose, in this order; newest first unless told. After a first attach: that one. */
  readonly versions?: readonly number[];
  /** Largest payload of a frame; 1500 unless told. */
  readonly mtu?: number;
  /** How long the host may take for each answer; 60,000 unless told: hosts can be slow. */
  readonly stepTimeoutMs?: number;
  /** Channels wanted, the primary included (`chan_cnt`); 1 unless told. */
  readonly channels?: number;
  /** Bytes of the receive buffer; as FreeBSD has it unless told. At most 31 MiB, in whole pages. */
  readonly receiveBufferBytes?: number;
  /** Bytes of the send buffer; as FreeBSD has it unless told. 0: none. At most 15 MiB, in whole pages. */
  readonly sendBufferBytes?: number;
  /** Time between switching reception off and the first look at the rings, for frames that are under way; 200 unless told. */
  readonly settleMs?: number;
  readonly offloads?: OffloadWishes;
  /** How frames are spread over channels; evenly, with FreeBSD's key, unless told. */
  readonly scaling?: ScalingChoice;
}

/** The dialogue's steps, in order. */
export type AttachmentState =
  | "idle"
  | "init"
  | "receive-memory"
  | "receive-buffer"
  | "send-memory"
  | "send-buffer"
  | "initialize"
  | "offload-capabilities"
  | "offload-parameters"
  | "scaling-capabilities"
  | "sub-channels"
  | "opening"
  | "scaling-parameters"
  | "filter"
  | "settle"
  | "address"
  | "frame-size"
  | "link-speed"
  | "link-status"
  | "ready"
  | "failed";

/** What the dialogue reacts to. */
export type AttachmentInput =
  /** The primary channel is open. */
  | { readonly kind: "opened" }
  /** The completion of the NVSP message that was sent last: all of its payload. */
  | { readonly kind: "completion"; readonly packet: Uint8Array }
  /** The memory that was asked for is shared. */
  | { readonly kind: "shared"; readonly buffer: SharedBuffer }
  /** The answer to the RNDIS question that was asked last. */
  | { readonly kind: "answer"; readonly answer: RndisAnswer }
  /** Memory was not shared, or a question not answered. */
  | { readonly kind: "denied"; readonly error: Error }
  /** Sub-channels that are open now, by their indices. */
  | { readonly kind: "channels"; readonly indices: readonly number[] }
  /** Time has passed; `now` says how much. */
  | { readonly kind: "tick" }
  | { readonly kind: "rescinded" }
  /** The channel closed for any other reason. */
  | { readonly kind: "closed" };

/** What its owner has to do then, in order. */
export type AttachmentEffect =
  /** Send an NVSP message; `awaited`: its completion is to come back. */
  | { readonly kind: "send"; readonly packet: Uint8Array; readonly awaited: boolean }
  /** Share this much memory with the host. */
  | { readonly kind: "share"; readonly lengthBytes: number }
  /** From now on the host may put messages into the receive buffer. */
  | { readonly kind: "receive"; readonly buffer: ReceiveBuffer }
  | { readonly kind: "ask"; readonly question: RndisQuestion }
  /** Open the sub-channels that the host offers, this many. */
  | {
      readonly kind: "open-channels";
      readonly count: number;
      readonly parameters: NetvscParameters;
    }
  | { readonly kind: "ready"; readonly parameters: NetvscParameters }
  | { readonly kind: "failed"; readonly error: Error };
