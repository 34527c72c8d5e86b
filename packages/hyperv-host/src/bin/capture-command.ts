import { resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { Interruption } from "@hyperv-is/platform-node";
import { ControlError } from "../control/control-error.js";
import { controlPath } from "../node/control-address.js";
import { ControlClient } from "../node/control-client.js";
import { writeOut } from "./standard-output.js";

/** What is to be captured. */
export interface CaptureCommandOptions {
  /** Name of a machine, or path of its control socket. */
  readonly vm: string;
  /** `hn0`, or an instance id. */
  readonly adapter: string;
  /** Where to; undefined: ends the capture that there is. */
  readonly path: string | undefined;
  readonly seconds: number | undefined;
  readonly count: number | undefined;
  readonly snapBytes: number | undefined;
  readonly json: boolean;
}

/** How often to ask whether there are enough frames. */
const LOOK_MS = 200;

/** Captures the frames of a network adapter until there are enough, or an interruption. @returns Exit status. */
export async function captureCommand(options: CaptureCommandOptions): Promise<number> {
  try {
    using client = await ControlClient.connect(controlPath(options.vm));
    if (options.path !== undefined) await capture(client, options);
    await stop(client, options);
    return 0;
  } catch (error) {
    if (!(error instanceof ControlError)) throw error;
    process.stderr.write(`hyperv-host: ${error.message}\n`);
    return 1;
  }
}

async function capture(client: ControlClient, options: CaptureCommandOptions): Promise<void> {
  const { adapter, path, seconds = Infinity, count, snapBytes } = options;
  const interruption = new Interruption("hyperv-host");
  try {
    const { instanceId } = await client.call("start-capture", {
      adapter,
      path: resolve(path!),
      ...(count !== undefined && { count }),
      ...(snapBytes !== undefined && { snapBytes }),
    });
    const end = performance.now() + seconds * 1_000;
    const { signal } = interruption;
    while (performance.now() < end) {
      const waitMs = Math.min(LOOK_MS, end - performance.now());
      const isOver = await pause(Math.max(0, waitMs), false, { signal }).catch(() => true);
      if (isOver) return;
      const { adapters } = await client.call("stats", {});
      const own = adapters.find((one) => one.instanceId === instanceId)?.capture;
      // Somebody else may have ended it.
      if (own === undefined || own.frames >= (count ?? Infinity)) return;
    }
  } finally {
    interruption.stop();
  }
}

async function stop(
  client: ControlClient,
  { adapter, json }: CaptureCommandOptions,
): Promise<void> {
  const { path, frames } = await client.call("stop-capture", { adapter });
  if (json) await writeOut(`${JSON.stringify({ path, frames }, null, 2)}\n`);
  else await writeOut(`${frames} ${frames === 1 ? "frame" : "frames"} in ${path}\n`);
}
