import type {
  ChannelClosedReason,
  QueueContext,
  QueueHalf,
  TellControl,
} from "@hyperv-is/vmbus-core";
import { CommandExecutor } from "./command-executor.js";
import { ScsiError, StorvscError } from "./errors.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import { ScsiDisk, type DiskDescription, type DiskEvents } from "./scsi-disk.js";
import { StorvscQueue } from "./storvsc-queue.js";

/** What the control half says to the queue half of a sub-channel: plain data. */
export type QueueMessage =
  /** All disks of the controller, as they are now. */
  | { readonly kind: "disks"; readonly disks: readonly DiskDescription[] }
  /** No new requests; answered when none is in flight. */
  | { readonly kind: "drain" }
  /** Answered with what there is to know about the queue, as plain JSON. */
  | { readonly kind: "inspect" };

/** What the queue half of a sub-channel says to the control half: plain data. */
export type QueueNews =
  | { readonly kind: "closed"; readonly reason: ChannelClosedReason }
  /** A disk has something to say, or does not answer any more. */
  | { readonly kind: "disk"; readonly target: number; readonly lun: number }
  | { readonly kind: "luns" };

/**
 * The half of the driver that lives on the CPU of a channel: its queue and, on a sub-channel, the faces of the
 * controller's disks, by which code on that CPU uses them. The control half tells what disks there are; what
 * one of them says here is told to the control half, which looks for itself.
 */
export class StorvscQueueHalf implements QueueHalf, DiskEvents {
  readonly queue: StorvscQueue;
  readonly #context: QueueContext;
  readonly #tell: (news: QueueNews) => void;
  readonly #disks: ScsiDisk[] = [];
  #executor: CommandExecutor | undefined;

  /** Binds the channel to the CPU of `context`. */
  constructor(context: QueueContext, description: StorvscQueueDescription, tell: TellControl) {
    this.#context = context;
    this.#tell = tell;
    this.queue = new StorvscQueue(context, description);
    // The control half takes these over on the primary channel, which is on its own CPU.
    this.queue.events = {
      busChanged: () => this.lunsChanged(),
      closed: (reason) => this.#closed(reason),
    };
  }

  /** The disks that this CPU can use, by target and LUN; none on the primary channel, whose controller has them. */
  get disks(): readonly ScsiDisk[] {
    return this.#disks;
  }

  answer(message: unknown): unknown {
    const asked = message as QueueMessage;
    switch (asked.kind) {
      case "disks":
        this.#follow(asked.disks);
        return undefined;
      case "drain":
        return this.#drain();
      case "inspect":
        return this.queue.inspect();
    }
  }

  stop(reason?: ChannelClosedReason): void {
    this.queue.stop(reason);
  }

  changed(disk: ScsiDisk): void {
    this.#tellOf(disk);
  }

  lost(disk: ScsiDisk): void {
    const at = this.#disks.indexOf(disk);
    if (at >= 0) this.#disks.splice(at, 1);
    this.#tellOf(disk);
  }

  lunsChanged(): void {
    this.#tell({ kind: "luns" });
  }

  #tellOf({ target, lun }: ScsiDisk): void {
    this.#tell({ kind: "disk", target, lun });
  }

  #follow(descriptions: readonly DiskDescription[]): void {
    if (this.queue.closedReason !== undefined) return;
    this.#executor ??= new CommandExecutor(this.queue, this.#context.timers);
    const executor = this.#executor;
    const before = this.#disks.splice(0);
    for (const description of descriptions) {
      const { target, lun } = description;
      const at = before.findIndex(
        (disk) => disk.target === target && disk.lun === lun && disk.follow(description),
      );
      const [known] = at < 0 ? [] : before.splice(at, 1);
      this.#disks.push(known ?? new ScsiDisk(executor, description, this));
    }
    for (const disk of before)
      disk.end(
        new ScsiError("ERR_SCSI_NOT_THERE", `the disk at ${disk.target}:${disk.lun} is gone`),
      );
  }

  #drain(): Promise<void> {
    this.#end(new StorvscError("ERR_CLOSED", "the controller is detached"));
    // A disk that looks at itself again would go on when nothing is in flight, and lose its buffer.
    this.#executor?.refuse();
    return this.queue.drained();
  }

  #closed(reason: ChannelClosedReason): void {
    this.#executor?.close();
    this.#end(
      reason === "rescinded"
        ? new StorvscError("ERR_RESCINDED", "the host took the channel away")
        : new StorvscError("ERR_CLOSED", "the channel is closed"),
    );
    this.#tell({ kind: "closed", reason });
  }

  #end(reason: Error): void {
    for (const disk of this.#disks.splice(0)) disk.end(reason);
  }
}
