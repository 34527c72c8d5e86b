import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import { steadyLink, stepLink, type Link, type LinkInput } from "./link-monitor.js";
import { get32, LINK_SPEED_UNIT, MediaConnectStatus, Oid } from "./protocol/index.js";
import type { RndisConversation } from "./rndis-conversation.js";

/** Follows the link of an interface: has the host asked when it indicates something, and tells of changes. */
export class LinkWatch {
  readonly #timers: Timers;
  readonly #conversation: RndisConversation;
  readonly #changed: (link: Link) => void;
  #state;
  #timer: Timer | undefined;
  #stopped = false;

  /** @param link - As the host has just told. */
  constructor(
    timers: Timers,
    conversation: RndisConversation,
    link: Link,
    changed: (link: Link) => void,
  ) {
    this.#timers = timers;
    this.#conversation = conversation;
    this.#changed = changed;
    this.#state = steadyLink(link);
  }

  get link(): Link {
    return { up: this.#state.up, speed: this.#state.speed };
  }

  /** INDICATE_STATUS, of whatever it tells. */
  indicated(status: number): void {
    this.#input({ kind: "indicated", status });
  }

  /** Nothing is asked or told any more. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  #input(input: LinkInput): void {
    if (this.#stopped) return;
    const { state, effects } = stepLink(this.#state, input, this.#timers.now());
    this.#state = state;
    this.#timer?.cancel();
    if (state.deadline !== Infinity)
      this.#timer = this.#timers.after(state.deadline - this.#timers.now(), () =>
        this.#input({ kind: "tick" }),
      );
    for (const effect of effects)
      if (effect.kind === "tell") this.#changed(effect.link);
      else void this.#ask().then((link) => this.#input({ kind: "answered", link }));
  }

  async #ask(): Promise<Link | undefined> {
    try {
      const speed = await this.#conversation.query(Oid.genLinkSpeed);
      const status = await this.#conversation.query(Oid.genMediaConnectStatus);
      if (speed.byteLength < 4 || status.byteLength < 4) return undefined;
      return {
        up: get32(status, 0) === MediaConnectStatus.connected,
        speed: get32(speed, 0) * LINK_SPEED_UNIT,
      };
    } catch {
      return undefined;
    }
  }
}
