import { ControlError } from "../control/control-error.js";
import type { HeartbeatStats, TimeSourceStats } from "../integration/index.js";
import { controlPath } from "../node/control-address.js";
import { ControlClient } from "../node/control-client.js";
import { writeOut } from "./standard-output.js";
import { formatDuration } from "./text-table.js";

/** Commands about the guest of a machine that runs. */
export const vmVerbs = ["heartbeat", "shutdown", "restart", "time"] as const;
export type VmVerb = (typeof vmVerbs)[number];

/** What such a command is asked for. */
export interface VmCommandOptions {
  /** Name of a machine, or path of its control socket. */
  readonly vm: string;
  readonly json: boolean;
  readonly force: boolean;
  /** For the guest's users. */
  readonly message: string;
  readonly sync: boolean;
  readonly offsetMs?: number;
}

/** How long a guest may take to agree to a shutdown; the machine itself gives up before. */
const ANSWER_TIMEOUT_MS = 15_000;

/** Runs such a command. @returns Exit status. */
export async function vmCommand(verb: VmVerb, options: VmCommandOptions): Promise<number> {
  try {
    using client = await ControlClient.connect(controlPath(options.vm), ANSWER_TIMEOUT_MS);
    const [value, lines] = await answer(client, verb, options);
    await writeOut(options.json ? `${JSON.stringify(value, null, 2)}\n` : lines.join(""));
    return 0;
  } catch (error) {
    if (!(error instanceof ControlError)) throw error;
    process.stderr.write(`hyperv-host: ${options.vm}: ${error.message}\n`);
    return 1;
  }
}

async function answer(
  client: ControlClient,
  verb: VmVerb,
  { force, message, sync, offsetMs }: VmCommandOptions,
): Promise<readonly [value: unknown, lines: readonly string[]]> {
  switch (verb) {
    case "heartbeat": {
      const heartbeat = await client.call("get-vm-heartbeat", {});
      return [heartbeat, heartbeatText(heartbeat)];
    }
    case "shutdown":
    case "restart": {
      const method = verb === "shutdown" ? "stop-vm" : "restart-vm";
      const value = await client.call(method, { force, message });
      return [value, [`The guest is going to ${verb === "shutdown" ? "shut down" : "restart"}.\n`]];
    }
    case "time": {
      const isChange = sync || offsetMs !== undefined;
      const time = isChange
        ? await client.call("set-vm-time", { sync, ...(offsetMs !== undefined && { offsetMs }) })
        : await client.call("get-vm-time", {});
      return [time, timeText(time)];
    }
  }
}

const row = (title: string, value: string): string => `${title.padEnd(18)}${value}\n`;

function versionRow({ messageVersion, state }: HeartbeatStats | TimeSourceStats): string {
  return row("Version", messageVersion ?? `none (${state})`);
}

/** Lines of `hyperv-host vm heartbeat`. */
function heartbeatText(heartbeat: HeartbeatStats): string[] {
  const { status, sent, answered, lost, missed, sinceAnswerMs, latencyMs } = heartbeat;
  return [
    row("Heartbeat", status),
    versionRow(heartbeat),
    row("Last answer", sinceAnswerMs === null ? "never" : `${formatDuration(sinceAnswerMs)} ago`),
    row("It took", latencyMs === null ? "-" : `${latencyMs} ms`),
    row("Sent", String(sent)),
    row("Answered", String(answered)),
    row("Lost", missed === 0 ? String(lost) : `${lost}, the last ${missed} in a row`),
  ];
}

/** Lines of `hyperv-host vm time`. */
function timeText(time: TimeSourceStats): string[] {
  const { timeMs, offsetMs, syncs, samples, refused } = time;
  return [
    row("Host's time", new Date(timeMs).toISOString()),
    row("Off by", `${offsetMs} ms`),
    versionRow(time),
    row("Set by the guest", String(syncs)),
    row("Samples", String(samples)),
    row("Refused", String(refused)),
  ];
}
