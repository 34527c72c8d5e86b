import type { IcStatus, IcVersions } from "@hyperv-is/hv-utils/protocol";
import { formatVersion } from "@hyperv-is/vmbus-core/protocol";
import type { HostService, ServiceContext } from "../host-service.js";
import {
  ComponentChannel,
  type ComponentDevice,
  type ComponentOwner,
} from "./component-channel.js";
import type { ComponentFailure, ComponentSpeech, ComponentState } from "./component-session.js";

/** What became of a request to the guest. */
export type ComponentResult =
  | { readonly kind: "answered"; readonly status: IcStatus; readonly body: Uint8Array }
  | { readonly kind: "failed"; readonly why: ComponentFailure };

/** What an administrator sees of every component; JSON. */
export interface ComponentStats {
  readonly state: ComponentState["name"];
  /** The agreed versions, such as "3.0"; null while there are none. */
  readonly frameworkVersion: string | null;
  readonly messageVersion: string | null;
}

/** What a component of the host makes of the news of its channel. */
export interface ComponentEvents {
  /** The guest's component can be asked from now on. */
  agreed?(versions: IcVersions): void;
  /** The guest answered a request whose time was up. */
  late?(status: IcStatus, body: Uint8Array): void;
  /** It cannot be asked any more. */
  lost?(): void;
}

/**
 * An integration component of the host, for as long as the machine runs: serves the channels that the guest opens
 * to it one after the other, and asks through the one that is open.
 */
export class Component implements HostService {
  readonly #speech: ComponentSpeech;
  readonly #events: ComponentEvents;
  #channel: ComponentChannel | undefined;
  #done: ((result: ComponentResult) => void) | undefined;

  constructor(speech: ComponentSpeech, events: ComponentEvents = {}) {
    this.#speech = speech;
    this.#events = events;
  }

  get stats(): ComponentStats {
    const versions = this.#channel?.versions;
    return {
      state: this.#channel?.state ?? "closed",
      frameworkVersion: versions === undefined ? null : formatVersion(versions.framework),
      messageVersion: versions === undefined ? null : formatVersion(versions.message),
    };
  }

  /** The agreed versions; undefined while there are none. */
  get versions(): IcVersions | undefined {
    return this.#channel?.versions;
  }

  open(device: ComponentDevice, context: ServiceContext): ComponentChannel {
    const owner: ComponentOwner = {
      ...this.#speech,
      heard: (effect) => {
        switch (effect.kind) {
          case "agreed":
            this.#events.agreed?.(effect.versions);
            return;
          case "late":
            this.#events.late?.(effect.status, effect.body);
            return;
          case "lost":
            this.#events.lost?.();
            return;
          default:
            this.#finish(effect);
        }
      },
    };
    const channel = new ComponentChannel(context, device, owner);
    this.#channel = channel;
    return channel;
  }

  /**
   * Asks the guest. `done` is called once, now or later.
   * @param timeoutMs - without it the guest may take as long as it likes.
   */
  ask(body: Uint8Array, done: (result: ComponentResult) => void, timeoutMs?: number): void {
    if (this.#channel === undefined || this.#done !== undefined) {
      done({ kind: "failed", why: this.#channel === undefined ? "not-ready" : "busy" });
      return;
    }
    this.#done = done;
    this.#channel.ask(body, timeoutMs);
  }

  /** Ends the conversation, because the guest broke a rule of this component. @param rule - stable, lower-case, hyphens. */
  fail(rule: string, detail: string): void {
    this.#channel?.fail(rule, detail);
  }

  /** Agrees on versions anew; a request that is outstanding fails. */
  renegotiate(): void {
    this.#channel?.renegotiate();
  }

  #finish(result: ComponentResult): void {
    const done = this.#done;
    this.#done = undefined;
    done?.(result);
  }
}
