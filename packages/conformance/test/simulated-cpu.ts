import {
  CallLink,
  QueueTable,
  RemoteQueues,
  messageLinkPair,
  type ChannelDescription,
  type ControlProcedures,
  type DriverModule,
  type GuestCpu,
  type QueueHalf,
  type QueueHandle,
  type QueueProcedures,
  type TellControl,
} from "@hyperv-is/vmbus-core";
import type { Actor, LateClearedEventFlags, Prng, Simulation } from "@hyperv-is/conformance";

/** A virtual processor: takes its interrupt, messages of other processors, or does the work of its channels. */
export class CpuActor implements Actor {
  readonly name: string;
  cpu: GuestCpu | undefined;
  readonly late: LateClearedEventFlags[] = [];
  /** Each takes one message of a line; true if there was one. */
  readonly lines: (() => boolean)[] = [];
  readonly #prng: Prng;
  readonly #sloth: number;
  #interrupted = false;

  /** @param sloth - How many turns it lets pass for each that it uses, about. */
  constructor(name: string, prng: Prng, sloth: number) {
    this.name = name;
    this.#prng = prng;
    this.#sloth = sloth;
  }

  raise(): void {
    this.#interrupted = true;
  }

  step(): boolean {
    if (this.cpu === undefined) return false;
    if (this.#prng.below(this.#sloth + 1) > 0) return true;
    let heard = false;
    for (const take of this.lines) heard = take() || heard;
    if (this.#interrupted) {
      this.#interrupted = false;
      this.cpu.interrupt();
      // The work may begin at once, or the host does something first.
      if (this.#prng.chance(1, 2)) return true;
    }
    const more = this.cpu.run();
    for (const flags of this.late) flags.clearLate();
    return more || heard || this.#interrupted;
  }
}

/** What makes the queue halves of a driver. */
export type QueueDriver<Half extends QueueHalf> = Pick<DriverModule<Half>, "name" | "queue">;

/** The queue halves of a processor besides the boot processor, and the line to it. */
export class ApplicationCpu<Half extends QueueHalf> {
  readonly actor: CpuActor;
  readonly cpu: GuestCpu;
  /** By relid of their channels. */
  readonly halves = new Map<number, Half>();
  readonly #driver: QueueDriver<Half>;
  readonly #queues: RemoteQueues;

  constructor(
    simulation: Simulation,
    number: number,
    boot: CpuActor,
    actor: CpuActor,
    cpu: GuestCpu,
    driver: QueueDriver<Half>,
  ) {
    this.actor = actor;
    this.cpu = cpu;
    this.#driver = driver;
    const { left, right } = messageLinkPair(
      () => simulation.wake(boot),
      () => simulation.wake(actor),
    );
    const near = new CallLink<ControlProcedures, QueueProcedures>(left, {
      tellControl: (message) => this.#queues.tellControl(message),
    });
    this.#queues = new RemoteQueues(number, near, new Promise(() => undefined));
    const table = new QueueTable(
      ({ description }, tell) => {
        const half = driver.queue(cpu, description, tell);
        const { channel } = description as { readonly channel: ChannelDescription };
        this.halves.set(channel.relid, half);
        return half;
      },
      (queue, message) => void far.call("tellControl", { queue, message }),
    );
    const far = new CallLink<QueueProcedures, ControlProcedures>(right, table);
    for (const [at, link, calls] of [
      [boot, left, near],
      [actor, right, far],
    ] as const)
      at.lines.push(() => {
        const message = link.receive();
        if (message !== undefined) calls.receive(message);
        return message !== undefined;
      });
  }

  /** Makes a queue half here, for a control half on the boot processor. */
  async start(description: unknown, told: TellControl): Promise<QueueHandle<Half>> {
    const handle = await this.#queues.start(this.#driver.name, description, told);
    return { ...handle, local: undefined };
  }
}
