/**
 * Everything that one CPU needs to run the data plane of a channel: plain data, so that the control
 * half can send it to the CPU that the channel is bound to.
 */
export interface ChannelDescription {
  /** The channel's relid, which is also its event flag from protocol 2.4 on. */
  readonly relid: number;
  /** 0 for a primary channel. */
  readonly subChannelIndex: number;
  /** Index of the virtual processor whose interrupts announce the channel. */
  readonly targetVp: number;
  /** GPA of the first page of both rings: guest to host first, host to guest right behind. */
  readonly ringAddress: number;
  /** Pages of the guest-to-host ring, control page included. */
  readonly outgoingPages: number;
  /** Pages of the host-to-guest ring, control page included. */
  readonly incomingPages: number;
  /** How the host is signalled. */
  readonly signal: HostSignal;
}

/** The road of a guest-to-host signal; which one it is follows from the protocol version and the offer. */
export interface HostSignal {
  /** Connection id for HvCallSignalEvent. */
  readonly connectionId: number;
  /** GPA of the send half of the interrupt page whose relid bit is set first; absent for dedicated interrupts. */
  readonly interruptPageAddress?: number;
  /** Bit to set in the child-to-parent monitor page instead of a hypercall; absent without a monitor. */
  readonly monitor?: {
    /** GPA of the word that holds the pending bits of the group. */
    readonly pendingAddress: number;
    /** Bit in that word, 0 to 31. */
    readonly bit: number;
  };
}
