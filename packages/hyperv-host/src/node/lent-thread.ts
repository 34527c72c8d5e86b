import { MessageChannel, type MessagePort } from "node:worker_threads";
import {
  CpuLink,
  type Doorbell,
  type WorkerExit,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import type { HostThreadData } from "./host-thread-messages.js";

/** Devices for the thread of a virtual processor to serve; `port` goes into the `transfer` of its worker. */
export interface LentThreadData {
  /** Their kind: a name in `hostThreads`. */
  readonly devices: string;
  readonly data: HostThreadData;
  readonly port: MessagePort;
}

/** A thread that serves devices of the host beside what it is for, in place of one of their own. */
export class LentThread<Sent, Received> {
  readonly link: CpuLink<Sent, Received>;
  /** What it is to be given. */
  readonly data: LentThreadData;
  /** Resolves when it is gone, or stopped before it was there. */
  readonly exited: Promise<WorkerExit>;
  #exit!: (exit: WorkerExit | Promise<WorkerExit>) => void;
  #lender: WorkerHandle | undefined;

  /** @param doorbell - of the thread. */
  constructor(devices: string, data: HostThreadData, doorbell: Doorbell) {
    const { port1, port2 } = new MessageChannel();
    this.link = new CpuLink(port1, doorbell);
    this.data = { devices, data, port: port2 };
    this.exited = new Promise((resolve) => (this.#exit = resolve));
  }

  /** The worker that was started with what it is to be given. */
  set lender(lender: WorkerHandle) {
    this.#lender = lender;
    this.#exit(lender.exited);
  }

  post(message: Sent): void {
    this.link.send(message);
  }

  /** Ends the whole thread. */
  async stop(): Promise<void> {
    await this.#lender?.stop();
    this.link.close();
    this.#exit({ code: 0, error: undefined, stopRequested: true });
  }
}
