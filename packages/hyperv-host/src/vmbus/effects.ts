import { VMBUS_SINT } from "@hyperv-is/vmbus-core/protocol";
import type { WorkerRequest } from "./worker-link.js";

/** What the bus wants done, in this order. The shell does it; the state machines only say it. */
export type ServerEffect =
  /** Sends a channel message to the guest. */
  | {
      readonly kind: "message";
      readonly vp: number;
      readonly sint: number;
      readonly bytes: Uint8Array;
    }
  /** Sends a request to a host worker. */
  | { readonly kind: "request"; readonly worker: number; readonly request: WorkerRequest }
  /** The guest broke a rule. */
  | {
      readonly kind: "violation";
      readonly rule: string;
      readonly detail: string;
      readonly relid?: number;
    }
  /** Signals on this connection go to the worker's flag from now on; it is not in use. */
  | {
      readonly kind: "connect-port";
      readonly connectionId: number;
      readonly worker: number;
      readonly flag: number;
    }
  | { readonly kind: "disconnect-port"; readonly connectionId: number }
  /** The same for a monitor id. */
  | {
      readonly kind: "connect-monitor";
      readonly monitorId: number;
      readonly worker: number;
      readonly flag: number;
    }
  | { readonly kind: "disconnect-monitor"; readonly monitorId: number }
  /** Pages through which the guest signals; undefined: none. */
  | {
      readonly kind: "signal-pages";
      readonly sendHalf: number | undefined;
      readonly monitorPage: number | undefined;
    }
  /** Connections on which the guest may post messages. */
  | { readonly kind: "message-connections"; readonly ids: readonly number[] }
  /** A reset has ended: nothing of the guest's is in use any more. */
  | { readonly kind: "reset-complete" };

/** Where a message to the guest goes. */
export interface MessageTarget {
  readonly vp: number;
  readonly sint: number;
}

/** Collects what the bus wants done. While the guest has messages paused they wait here, in order. */
export class Outbox {
  /** Where messages go that name no other target. */
  target: MessageTarget = { vp: 0, sint: VMBUS_SINT };
  readonly #effects: ServerEffect[] = [];
  readonly #held: ServerEffect[] = [];
  #isPaused = false;

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** True if nothing waits to be done or sent. */
  get isEmpty(): boolean {
    return this.#effects.length === 0 && this.#held.length === 0;
  }

  push(effect: ServerEffect): void {
    this.#effects.push(effect);
  }

  /** Sends a channel message. */
  send(bytes: Uint8Array, { vp, sint }: MessageTarget = this.target): void {
    const queue = this.#isPaused ? this.#held : this.#effects;
    queue.push({ kind: "message", vp, sint, bytes });
  }

  /** Sends a request to a worker. */
  request(worker: number, request: WorkerRequest): void {
    this.push({ kind: "request", worker, request });
  }

  /** Records that the guest broke a rule. */
  violation(rule: string, detail: string, relid?: number): void {
    this.push({ kind: "violation", rule, detail, ...(relid !== undefined && { relid }) });
  }

  pause(): void {
    this.#isPaused = true;
  }

  /** Lets the messages go that waited. */
  resume(): void {
    this.#isPaused = false;
    this.#effects.push(...this.#held.splice(0));
  }

  /** Throws away the messages that wait. */
  discard(): void {
    this.#isPaused = false;
    this.#held.length = 0;
  }

  /** Takes all effects so far. */
  take(): ServerEffect[] {
    return this.#effects.splice(0);
  }
}
