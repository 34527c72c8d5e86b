import {
  emitShutdownText,
  frameworkVersions,
  IcMessageType,
  Shutdown,
  SHUTDOWN_REASON_PLANNED,
  ShutdownFlag,
  shutdownVersions,
} from "@hyperv-is/hv-utils/protocol";
import { Component, type ComponentResult, type ComponentStats } from "./component.js";
import type { ComponentSpeech } from "./component-session.js";

/** How long a guest may take to say that it will shut down. */
const ANSWER_TIMEOUT_MS = 10_000;

/** What a guest is asked for. */
export interface ShutdownRequest {
  readonly action: "power-off" | "restart";
  /** Even if applications object. */
  readonly force: boolean;
  /** For the guest's users, at most 1023 UTF-16 units. */
  readonly message: string;
}

/** What has become of requests to shut down; JSON. */
export interface ShutdownStats extends ComponentStats {
  readonly asked: number;
  /** Those that the guest agreed to. */
  readonly accepted: number;
}

/** The host's shutdown component: asks when it is told to. */
export class ShutdownRequester {
  readonly component: Component;
  #asked = 0;
  #accepted = 0;

  constructor(speech: Partial<ComponentSpeech> = {}) {
    const { frameworks = frameworkVersions, messages = shutdownVersions } = speech;
    this.component = new Component({ type: IcMessageType.shutdown, frameworks, messages });
  }

  /** Asks the guest; `done` hears whether it will, before it does. */
  ask(request: ShutdownRequest, done: (result: ComponentResult) => void): void {
    const { action, force, message } = request;
    const body = Shutdown.emit({
      reason: SHUTDOWN_REASON_PLANNED,
      timeoutSeconds: 0,
      flags: (force ? ShutdownFlag.force : 0) | (action === "restart" ? ShutdownFlag.restart : 0),
      message: emitShutdownText(message),
    });
    this.#asked++;
    this.component.ask(
      body,
      (result) => {
        if (result.kind === "answered" && result.status === 0) this.#accepted++;
        done(result);
      },
      ANSWER_TIMEOUT_MS,
    );
  }

  get stats(): ShutdownStats {
    return { ...this.component.stats, asked: this.#asked, accepted: this.#accepted };
  }
}
