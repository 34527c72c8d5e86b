import { record, u32, u64, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { parsePrefix } from "./prefix.js";

/** How the guest's applications are, as an answer may say. */
export const ApplicationState = {
  /** What a guest says that does not know: the state of a request, echoed. */
  unknown: 0,
  healthy: 1,
  critical: 2,
  stopped: 3,
} as const;
/** Open enumeration: any u32 may arrive. */
export type ApplicationState =
  (typeof ApplicationState)[keyof typeof ApplicationState] | (number & {});

/** Body of a heartbeat and of its answer, which has the sequence number plus 1. Source: OpenVMM; FreeBSD and Linux read the number alone. */
export const Heartbeat = record({ sequence: u64(0), applicationState: u32(8) }, 16);
export type Heartbeat = RecordOf<typeof Heartbeat.fields>;

/** A heartbeat of which the sequence number must be there; undefined without it. */
export function parseHeartbeat(body: Uint8Array): Heartbeat | undefined {
  return parsePrefix(Heartbeat, body, 8);
}

/** The sequence number of the answer: one more, modulo 2^64. */
export function nextSequence(sequence: bigint): bigint {
  return BigInt.asUintN(64, sequence + 1n);
}
