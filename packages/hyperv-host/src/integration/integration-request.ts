import type { KvpPool, KvpRequest } from "@hyperv-is/hv-kvp/protocol";
import { failureOf, GuestError } from "./guest-error.js";
import type { IntegrationServices } from "./integration-services.js";
import type { ShutdownRequest } from "./shutdown-requester.js";

/** What an administrator asks of a guest's integration components: plain data. */
export type IntegrationRequest =
  | ({ readonly kind: "shutdown" } & ShutdownRequest)
  /** Puts the host's clock off by so much, if it is given; then has the guest set its clock, if it is to. */
  | { readonly kind: "time"; readonly offsetMs?: number | undefined; readonly sync: boolean }
  /** Has a key set or deleted, or addresses read (the result) or set. */
  | { readonly kind: "kvp"; readonly request: KvpRequest }
  /** The result is a pool's items. */
  | { readonly kind: "kvp-enumerate"; readonly pool: KvpPool };

/** Carries a request out, and calls `done` once, now or later, with a plain result where the request has one. */
export function carryOutRequest(
  services: IntegrationServices,
  request: IntegrationRequest,
  done: (error: GuestError | undefined, result?: unknown) => void,
): void {
  if (request.kind === "shutdown") {
    services.shutdown.ask(request, (result) => done(failureOf(result)));
    return;
  }
  if (request.kind === "kvp") {
    services.kvp.ask(request.request, (result) => {
      if (result.kind === "failed") done(result.error);
      else if (result.kind === "none")
        done(new GuestError("ERR_GUEST_REFUSED", "the guest has no such key"));
      else done(undefined, result.settings ?? result.item);
    });
    return;
  }
  if (request.kind === "kvp-enumerate") {
    services.kvp.enumerate(request.pool, (result) => {
      if (result instanceof GuestError) done(result);
      else done(undefined, result);
    });
    return;
  }
  const { offsetMs, sync } = request;
  if (offsetMs !== undefined) services.timeSync.offsetMs = offsetMs;
  const isThere = !sync || services.timeSync.sync();
  done(isThere ? undefined : failureOf({ kind: "failed", why: "not-ready" }));
}
