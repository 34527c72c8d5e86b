import { VmbusError } from "@hyperv-is/vmbus-core";
import type { ComponentResult } from "./component.js";
import type { ComponentFailure } from "./component-session.js";

/**
 * Stable codes of what a guest's integration component does not do.
 *
 * - `ERR_GUEST_NOT_READY`: the guest has no such component, or not yet.
 * - `ERR_GUEST_BUSY`: it has not answered an earlier request.
 * - `ERR_GUEST_SILENT`: it did not answer in time.
 * - `ERR_GUEST_GONE`: it went away before it answered.
 * - `ERR_GUEST_REFUSED`: it answered with a failure.
 */
export type GuestErrorCode =
  | "ERR_GUEST_NOT_READY"
  | "ERR_GUEST_BUSY"
  | "ERR_GUEST_SILENT"
  | "ERR_GUEST_GONE"
  | "ERR_GUEST_REFUSED";

/** A guest did not do what its host asked for. */
export class GuestError extends VmbusError<GuestErrorCode> {}

const failures: Readonly<Record<ComponentFailure, readonly [GuestErrorCode, string]>> = {
  "not-ready": [
    "ERR_GUEST_NOT_READY",
    "the guest does not have the component, or not yet: it may still boot",
  ],
  busy: ["ERR_GUEST_BUSY", "the guest has not answered an earlier request"],
  silent: ["ERR_GUEST_SILENT", "the guest did not answer in time"],
  gone: ["ERR_GUEST_GONE", "the guest went away before it answered"],
};

/** What is wrong with a result; undefined if the guest did what it was asked for. */
export function failureOf(result: ComponentResult): GuestError | undefined {
  if (result.kind === "failed") return new GuestError(...failures[result.why]);
  if (result.status === 0) return undefined;
  const status = `0x${result.status.toString(16).padStart(8, "0")}`;
  return new GuestError("ERR_GUEST_REFUSED", `the guest refused, with status ${status}`);
}
