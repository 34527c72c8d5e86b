import { receiveMessageOnPort, type MessagePort } from "node:worker_threads";
import type { MessageLink } from "@hyperv-is/vmbus-core";
import { DoorbellCause, type Doorbell } from "./doorbell.js";

/**
 * A link between two threads: a MessagePort that is drained when the doorbell rings.
 *
 * A thread that blocks on its doorbell hears no event of a port; the bell is rung after the message was queued,
 * so that whoever takes the cause finds the message.
 */
export class CpuLink<Sent = unknown, Received = Sent> implements MessageLink<Sent, Received> {
  readonly #port: MessagePort;
  readonly #bell: Doorbell | undefined;
  /** A port goes on for a while after its `close`. */
  #closed = false;

  /** @param port - this end. @param bell - wakes the other end; undefined if that listens to the port's events. */
  constructor(port: MessagePort, bell: Doorbell | undefined) {
    this.#port = port;
    this.#bell = bell;
  }

  send(message: Sent): void {
    if (this.#closed) return;
    this.#port.postMessage(message);
    this.#bell?.ring(DoorbellCause.message);
  }

  receive(): Received | undefined {
    if (this.#closed) return undefined;
    return (receiveMessageOnPort(this.#port) as { message: Received } | undefined)?.message;
  }

  close(): void {
    this.#closed = true;
    this.#port.close();
  }
}
