import { record, u16, u32, type RecordOf } from "./record.js";

/**
 * The interrupt page of protocols below 2.4: a relid's bit in one of two bitmaps says which channel is
 * meant. Bits are numbered as in the event-flags page.
 */
export const InterruptPage = {
  /** Host to guest. */
  receive: 0,
  /** Guest to host. */
  send: 2048,
  halfBytes: 2048,
  /** Channels below protocol 2.4: the guest scans only this many bits. */
  scannedFlags: 256,
} as const;

/** The event flag of SINT 2 that announces the interrupt page below 2.4; reserved from then on. */
export const INTERRUPT_PAGE_FLAG = 0;

/** Monitored notifications: ids 0 to 127, in groups of 32. */
export const MONITOR_COUNT = 128;

/** The monitor id with which OpenVMM marks an offer without a monitor. */
export const MONITOR_NONE = 0xff;

/**
 * Byte offsets in a monitor page. The guest triggers through its second page, child to parent.
 *
 * Monitor id m is bit m % 32 of group m / 32.
 */
export const MonitorPage = {
  triggerState: 0, // u32, bits 0 to 3 enable the groups
  triggerGroups: 8, // { pending u32, armed u32 }[4]
  triggerGroupBytes: 8,
  nextCheckTimes: 64, // i32[4][32]
  latencies: 576, // u16[4][32], units of 100 ns
  parameters: 1088, // MonitorParameter[4][32]
  SIZE: 4096, // bytes
} as const;

/** What the hypervisor signals when a monitor is triggered. */
export const MonitorParameter = record({ connectionId: u32(0), flagNumber: u16(4) }, 8);
export type MonitorParameter = RecordOf<typeof MonitorParameter.fields>;

/** Byte offset of the word whose bit `monitorId % 32` the guest sets to signal. */
export function monitorPendingOffset(monitorId: number): number {
  return MonitorPage.triggerGroups + MonitorPage.triggerGroupBytes * (monitorId >>> 5);
}

/** Byte offset of the u16 in which the guest asks for a latency, in units of 100 ns. */
export function monitorLatencyOffset(monitorId: number): number {
  return MonitorPage.latencies + 2 * monitorId;
}

/** Byte offset of the monitor's `MonitorParameter`. */
export function monitorParameterOffset(monitorId: number): number {
  return MonitorPage.parameters + MonitorParameter.SIZE * monitorId;
}
