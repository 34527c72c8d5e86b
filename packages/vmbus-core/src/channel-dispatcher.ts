import type { Channel } from "./channel.js";
import { PollResult } from "./channel.js";
import type { EventFlags } from "./event-flags.js";

/** Packets that one channel may handle before the others of its CPU get their turn. */
const DEFAULT_BUDGET = 256;

/**
 * One CPU's channels: turns event flags into channel tasks, round robin, each bounded by a budget.
 * Guest vCPUs and host workers use the same one; a flag number is what the channel was bound to.
 */
export class ChannelDispatcher {
  readonly #channels: (Channel | undefined)[] = [];
  readonly #ready: Channel[] = [];
  readonly #budget: number;

  constructor(budget = DEFAULT_BUDGET) {
    this.#budget = budget;
  }

  /** Binds a flag to a channel. To be done before the peer can signal; the channel is polled once, for signals that came earlier. */
  bind(flag: number, channel: Channel): void {
    if (this.#channels[flag] !== undefined) throw new Error(`flag ${flag} is bound already`);
    this.#channels[flag] = channel;
    this.schedule(channel);
  }

  /** Forgets a flag; late signals on it are ignored. */
  unbind(flag: number): void {
    const channel = this.#channels[flag];
    this.#channels[flag] = undefined;
    if (channel?.isScheduled !== true) return;
    channel.isScheduled = false;
    this.#ready.splice(this.#ready.indexOf(channel), 1);
  }

  /** Takes the flags that have ever been bound and schedules their channels; unknown flags are ignored. */
  interrupt(flags: EventFlags): void {
    // Nobody listens to the flags above, which are most of them.
    const words = Math.min(flags.wordCount, (this.#channels.length + 31) >>> 5);
    for (let word = 0; word < words; word++) {
      let bits = flags.take(word);
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        const channel = this.#channels[word * 32 + bit];
        if (channel === undefined) continue;
        channel.interrupt();
        this.schedule(channel);
      }
    }
  }

  /** Puts a channel on the list of those to poll. */
  schedule(channel: Channel): void {
    if (channel.isScheduled) return;
    channel.isScheduled = true;
    this.#ready.push(channel);
  }

  /** Polls each scheduled channel once; true while some want to be polled again. */
  run(): boolean {
    for (let count = this.#ready.length; count > 0; count--) {
      const channel = this.#ready.shift();
      if (channel === undefined) break;
      channel.isScheduled = false;
      if (channel.poll(this.#budget) === PollResult.More) this.schedule(channel);
    }
    return this.#ready.length > 0;
  }
}
