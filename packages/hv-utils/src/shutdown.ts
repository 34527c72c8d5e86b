import { step, type ShutdownAction, type Step, type SystemServices } from "@hyperv-is/vmbus-core";
import type { IcChannel, IcService } from "./ic-channel.js";
import type { IcRequest } from "./ic-session.js";
import {
  frameworkVersions,
  IcMessageType,
  IcStatus,
  icVersion,
  parseShutdown,
  ShutdownFlag,
  shutdownText,
  shutdownVersions,
  type IcVersion,
} from "./protocol/index.js";

/** Whether the system is being shut down by the host. */
export interface ShutdownState {
  readonly name: "running" | ShutdownAction;
}

/** What its owner has to do, in this order: the host learns that its request is accepted before it is carried out. */
export type ShutdownEffect =
  /** One line for the kernel's messages. */
  | { readonly kind: "log"; readonly line: string }
  | { readonly kind: "answer"; readonly status: IcStatus }
  /** Begin an orderly shutdown. */
  | { readonly kind: "act"; readonly action: ShutdownAction };

/** The versions that this driver speaks: without 3.2, which brought hibernation. */
export const shutdownDriverVersions: readonly IcVersion[] = shutdownVersions.filter(
  (version) => version < icVersion(3, 2),
);

/**
 * A request of the host to end the system: power off (flags 0 and 1) or restart (2 and 3). Any other flags are
 * refused, hibernation among them. FreeBSD's driver refuses restarts too. A second request while the system goes
 * down already is accepted, and changes nothing.
 */
export function stepShutdown(
  state: ShutdownState,
  body: Uint8Array,
): Step<ShutdownState, ShutdownEffect> {
  const request = parseShutdown(body);
  if (request === undefined)
    return step(state, { kind: "answer", status: IcStatus.invalidArgument });
  const { flags, reason, message } = request;
  const isRestart = (flags & ShutdownFlag.restart) !== 0;
  if ((flags & ~(ShutdownFlag.force | ShutdownFlag.restart)) !== 0)
    return step<ShutdownState, ShutdownEffect>(
      state,
      { kind: "log", line: `unknown shutdown flags 0x${flags.toString(16).padStart(8, "0")}` },
      { kind: "answer", status: IcStatus.fail },
    );
  if (state.name !== "running") return step(state, { kind: "answer", status: IcStatus.ok });
  const action = isRestart ? "restart" : "power-off";
  const text = shutdownText(message);
  const why = text === "" ? "" : `, reason 0x${reason.toString(16)}: ${text}`;
  return step<ShutdownState, ShutdownEffect>(
    { name: action },
    { kind: "log", line: `${isRestart ? "restart" : "shutdown"} requested${why}` },
    { kind: "answer", status: IcStatus.ok },
    { kind: "act", action },
  );
}

/** What a shutdown needs of the kernel. */
export interface ShutdownContext {
  log(line: string): void;
  readonly system: Pick<SystemServices, "shutdown">;
}

/** Carries out the host's requests to power off and to restart. */
export class ShutdownService implements IcService {
  readonly type = IcMessageType.shutdown;
  readonly frameworks = frameworkVersions;
  readonly messages = shutdownDriverVersions;
  readonly #channel: IcChannel;
  readonly #context: ShutdownContext;
  #state: ShutdownState = { name: "running" };

  constructor(channel: IcChannel, context: ShutdownContext) {
    this.#channel = channel;
    this.#context = context;
  }

  get state(): ShutdownState {
    return this.#state;
  }

  request(request: IcRequest): void {
    const { state, effects } = stepShutdown(this.#state, request.message.body);
    this.#state = state;
    for (const effect of effects) {
      if (effect.kind === "log") this.#context.log(effect.line);
      else if (effect.kind === "act") this.#context.system.shutdown(effect.action);
      else this.#channel.respond(request, effect.status, new Uint8Array());
    }
  }
}
