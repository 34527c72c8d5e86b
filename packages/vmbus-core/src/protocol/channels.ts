import { MessageType, message } from "./message-record.js";
import { USER_DATA_SIZE } from "./offers.js";
import { bytes, flag16, u16, u32, type RecordOf } from "./record.js";
import { Feature } from "./versions.js";

/** Target vCPU of a channel that raises no interrupts. */
export const VP_INTERRUPTS_DISABLED = 0xffff_ffff;

const openFields = {
  relid: u32(8),
  openId: u32(12),
  ringGpadlId: u32(16),
  targetVp: u32(20),
  downstreamPageOffset: u32(24),
  userData: bytes(28, USER_DATA_SIZE),
};
/** OPENCHANNEL without the features that extend it. */
export const ShortOpen = message(MessageType.openChannel, openFields);
/** OPENCHANNEL with one of the features that extend it. */
export const SignalOpen = message(MessageType.openChannel, {
  ...openFields,
  connectionId: u32(148),
  eventFlag: u16(152),
  redirectInterrupt: flag16(154),
});

/** OPENCHANNEL (5). */
export interface OpenChannel {
  readonly relid: number;
  /** Repeated in the result; guests use the relid. */
  readonly openId: number;
  readonly ringGpadlId: number;
  /** Hypervisor's number of the vCPU that gets the channel's interrupts, or `VP_INTERRUPTS_DISABLED`. */
  readonly targetVp: number;
  /** Pages of the guest-to-host ring, its control page included; the other ring follows. */
  readonly downstreamPageOffset: number;
  /** At most 120 bytes; parsed, exactly 120. */
  readonly userData: Uint8Array;
  /** With `Feature.guestSignalParameters`: taken as they are, 0 is no default. */
  readonly signal?: { readonly connectionId: number; readonly eventFlag: number };
  /** With `Feature.interruptRedirection`. */
  readonly redirectInterrupt: boolean;
}
export const OpenChannel = {
  /** Bytes without one of the features below. */
  SIZE: ShortOpen.SIZE,
  /** Bytes with one of the features that extend the message. */
  SIGNAL_SIZE: SignalOpen.SIZE,
  /** `Feature` bits of which any extends the message. */
  SIGNAL_FEATURES: Feature.guestSignalParameters | Feature.interruptRedirection,

  /**
   * Undefined if bytes are missing.
   * @param features - Negotiated `Feature` bits.
   */
  parse(message: Uint8Array, features: number): OpenChannel | undefined {
    if ((features & OpenChannel.SIGNAL_FEATURES) === 0) {
      const short = ShortOpen.parse(message);
      return short && { ...short, redirectInterrupt: false };
    }
    const parsed = SignalOpen.parse(message);
    if (parsed === undefined) return undefined;
    const { connectionId, eventFlag, ...open } = parsed;
    return {
      ...open,
      ...((features & Feature.guestSignalParameters) !== 0 && {
        signal: { connectionId, eventFlag },
      }),
      redirectInterrupt:
        (features & Feature.interruptRedirection) !== 0 && parsed.redirectInterrupt,
    };
  },

  /** Throws a RangeError if a value does not fit, or `signal` is missing where the features need it. */
  emit(open: OpenChannel, features: number): Uint8Array<ArrayBuffer> {
    if ((features & OpenChannel.SIGNAL_FEATURES) === 0) return ShortOpen.emit(open);
    const guestSignals = (features & Feature.guestSignalParameters) !== 0;
    if (guestSignals && open.signal === undefined)
      throw new RangeError("the negotiated features need connection id and event flag");
    const signal = guestSignals ? open.signal : undefined;
    return SignalOpen.emit({
      ...open,
      connectionId: signal?.connectionId ?? 0,
      eventFlag: signal?.eventFlag ?? 0,
      redirectInterrupt: (features & Feature.interruptRedirection) !== 0 && open.redirectInterrupt,
    });
  },
} as const;

/** OPENCHANNEL_RESULT (6). */
export const OpenChannelResult = message(MessageType.openChannelResult, {
  relid: u32(8),
  openId: u32(12),
  /** NTSTATUS; guests take anything but 0 for a failure. */
  status: u32(16),
});
export type OpenChannelResult = RecordOf<typeof OpenChannelResult.fields>;

/** CLOSECHANNEL (7): not answered. */
export const CloseChannel = message(MessageType.closeChannel, { relid: u32(8) });
export type CloseChannel = RecordOf<typeof CloseChannel.fields>;

/** MODIFYCHANNEL (22): move the channel's interrupts. */
export const ModifyChannel = message(MessageType.modifyChannel, {
  relid: u32(8),
  /** `VP_INTERRUPTS_DISABLED` is refused. */
  targetVp: u32(12),
});
export type ModifyChannel = RecordOf<typeof ModifyChannel.fields>;

/** MODIFYCHANNEL_RESPONSE (24). */
export const ModifyChannelResponse = message(MessageType.modifyChannelResponse, {
  relid: u32(8),
  /** NTSTATUS. */
  status: u32(12),
});
export type ModifyChannelResponse = RecordOf<typeof ModifyChannelResponse.fields>;

/** OPEN_RESERVED_CHANNEL (18): for crash dumpers; no interrupts. */
export const OpenReservedChannel = message(MessageType.openReservedChannel, {
  relid: u32(8),
  targetVp: u32(12),
  sint: u32(16),
  ringGpadlId: u32(20),
  downstreamPageOffset: u32(24),
});
export type OpenReservedChannel = RecordOf<typeof OpenReservedChannel.fields>;

/** CLOSE_RESERVED_CHANNEL (19): legal without a connection, too. */
export const CloseReservedChannel = message(MessageType.closeReservedChannel, {
  relid: u32(8),
  /** Where to send the answer. */
  targetVp: u32(12),
  sint: u32(16),
});
export type CloseReservedChannel = RecordOf<typeof CloseReservedChannel.fields>;

/** CLOSE_RESERVED_RESPONSE (20). */
export const CloseReservedResponse = message(MessageType.closeReservedResponse, { relid: u32(8) });
export type CloseReservedResponse = RecordOf<typeof CloseReservedResponse.fields>;
