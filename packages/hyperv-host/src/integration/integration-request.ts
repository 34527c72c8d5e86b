import { failureOf, type GuestError } from "./guest-error.js";
import type { IntegrationServices } from "./integration-services.js";
import type { ShutdownRequest } from "./shutdown-requester.js";

/** What an administrator asks of a guest's integration components: plain data. */
export type IntegrationRequest =
  | ({ readonly kind: "shutdown" } & ShutdownRequest)
  /** Puts the host's clock off by so much, if it is given; then has the guest set its clock, if it is to. */
  | { readonly kind: "time"; readonly offsetMs?: number | undefined; readonly sync: boolean };

/** Carries a request out, and calls `done` once, now or later. */
export function carryOutRequest(
  services: IntegrationServices,
  request: IntegrationRequest,
  done: (error: GuestError | undefined) => void,
): void {
  if (request.kind === "shutdown") {
    services.shutdown.ask(request, (result) => done(failureOf(result)));
    return;
  }
  const { offsetMs, sync } = request;
  if (offsetMs !== undefined) services.timeSync.offsetMs = offsetMs;
  const isThere = !sync || services.timeSync.sync();
  done(isThere ? undefined : failureOf({ kind: "failed", why: "not-ready" }));
}
